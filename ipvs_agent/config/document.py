"""A configuration file: one document of YAML or JSON, and errors that name file, line and field."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from ipvs_agent.documents import MalformedError, check_text, explain
from ipvs_agent.durations import parse_timeout
from ipvs_agent.errors import ConfigError
from ipvs_agent.sources.checks import quoted

_PLAIN = re.compile(r"[-A-Za-z0-9_.\[\]]{1,80}")
_Read = TypeVar("_Read")


class FieldError(Exception):
    """A field has a value that cannot be used."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


def read_document(
    path: Path, kind: str, build: Callable[[object], _Read], *, may_repeat: bool = True
) -> _Read:
    """Return what `build` makes of the file's document, and raise its errors as ConfigError.

    kind: what the document should be, for the error where there is not exactly one.
    may_repeat: whether a field may stand twice, so that the last counts.
    """
    from ipvs_agent import yaml_documents  # noqa: PLC0415 - see there

    try:
        data = check_text(path.read_bytes())
        documents = [
            (index, value)
            for index, (_, value) in enumerate(yaml_documents.read_yaml(data))
            if value is not None
        ]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except MalformedError as error:
        raise ConfigError(f"{path}: {error}") from error
    if len(documents) != 1:
        raise ConfigError(f"{path}: one document is needed, of kind {kind}, and there are {len(documents)}")
    index, document = documents[0]
    lines = yaml_documents.YamlLines(data)
    try:
        read = build(document)
        if not may_repeat and (repeated := lines.repeated(index)) is not None:
            raise FieldError(repeated, "is there twice")
        return read
    except msgspec.ValidationError as error:
        field, reason = explain(error)
    except FieldError as error:
        field, reason = error.field, error.reason
    # What somebody wrote must not act on the terminal of who reads it.
    name = field if _PLAIN.fullmatch(field) else quoted(field)
    raise ConfigError(f"{path}: line {lines.line(index, field)}: {name}: {reason}")


def require(field: str, value: str | None, needed: str) -> None:
    """Raise FieldError where a field does not have the only value that it can have."""
    if value != needed:
        raise FieldError(
            field, f"{quoted(value)} must be {needed}" if value else f"is missing, and must be {needed}"
        )


def seconds(field: str, text: str, *longest: float) -> float:
    """Return a duration as `parse_timeout` does."""
    try:
        return parse_timeout(text, *longest)
    except ValueError as error:
        raise FieldError(field, str(error)) from error
