"""Notes: what the agent does not serve as a Service asks, in words; as a file's content, and as text."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ipvs_agent.model import ObjectName

Notes = Mapping[ObjectName, tuple[str, ...]]
"""Lines about Services; none of a Service that is served as it asks."""

_VERSION = 1


class _Content(msgspec.Struct):
    version: int
    notes: dict[str, tuple[str, ...]]


_decode = msgspec.json.Decoder(_Content).decode


def encode(notes: Notes) -> bytes:
    """Write the content of a file of notes."""
    lines = {str(name): notes[name] for name in sorted(notes)}
    return msgspec.json.format(msgspec.json.encode(_Content(_VERSION, lines)), indent=1) + b"\n"


def decode(data: bytes) -> Notes:
    """Read the content of a file of notes; ValueError where it is none."""
    try:
        content = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error
    if content.version != _VERSION:
        raise ValueError(f"version {content.version} is not {_VERSION}")
    return {_name(text): lines for text, lines in content.notes.items()}


def render(notes: Notes) -> str:
    """Render the section of a listing; nothing where there are no notes."""
    lines = [f"{name}: {line}" for name in sorted(notes) for line in notes[name]]
    if not lines:
        return ""
    return "\n".join(["", "Not served as asked:", *map(_printable, lines), ""])


def _name(text: str) -> ObjectName:
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name):
        raise ValueError(f"{text!r} is not NAMESPACE/NAME")
    return ObjectName(namespace, name)


def _printable(line: str) -> str:
    # What a user wrote into an object must not act on the terminal of who looks at it.
    return line if line.isprintable() else line.encode("unicode_escape").decode()
