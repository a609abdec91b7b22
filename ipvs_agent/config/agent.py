"""The agent's own configuration file, for what kube-proxy's has no field for.

A field that is not known, or there twice, is refused: nobody else writes this file, so it is a slip.
"""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import TypeVar

import msgspec

from ipvs_agent.config.document import FieldError, read_document, require, seconds
from ipvs_agent.config.values import AgentConfig, Lists
from ipvs_agent.model import LONGEST_DRAIN, VipMode
from ipvs_agent.schedulers.guess import closest
from ipvs_agent.sources.checks import quoted

API_VERSION = "ipvs-agent.io/v1alpha1"
KIND = "IpvsAgentConfiguration"

_Choice = TypeVar("_Choice", bound=enum.StrEnum)


class _File(msgspec.Struct, rename="camel"):
    api_version: str | None = None
    kind: str | None = None
    drain_timeout: str | None = None
    lists: str | None = None
    vip_mode: str | None = None


def read_agent_configuration(path: Path, config: AgentConfig) -> AgentConfig:
    """Return a configuration with what the file says."""

    def build(document: object) -> AgentConfig:
        _refuse_keys_that_are_no_text(document)
        file = msgspec.convert(document, _File)
        require("apiVersion", file.api_version, API_VERSION)
        require("kind", file.kind, KIND)
        _refuse_unknown_fields(document)
        read = config
        if file.drain_timeout is not None:
            drain = seconds("drainTimeout", file.drain_timeout, LONGEST_DRAIN)
            read = msgspec.structs.replace(read, drain_seconds=drain)
        if file.lists is not None:
            read = msgspec.structs.replace(read, lists=_choice("lists", file.lists, Lists))
        if file.vip_mode is not None:
            read = msgspec.structs.replace(read, vip_mode=_choice("vipMode", file.vip_mode, VipMode))
        return read

    return read_document(path, KIND, build, may_repeat=False)


def _choice(field: str, name: str, choices: type[_Choice]) -> _Choice:
    try:
        return choices(name)
    except ValueError:
        raise FieldError(field, f"{quoted(name)} is none of {', '.join(choices)}") from None


def _refuse_keys_that_are_no_text(document: object) -> None:
    # The type's own check would not name them.
    for field in document if isinstance(document, dict) else ():
        if not isinstance(field, str):
            raise FieldError(json.dumps(field), "is not text, so it is no field of this file")


def _refuse_unknown_fields(document: object) -> None:
    assert isinstance(document, dict)
    known = _File.__struct_encode_fields__
    for field in document:
        if field not in known:
            # `closest` compares in small letters.
            names = {name.lower(): name for name in known}
            guess = names.get(closest(field, tuple(names)))
            raise FieldError(
                field, "is no field of this file" + (f"; did you mean {guess}?" if guess else "")
            )
