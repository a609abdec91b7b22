"""JSON text as Kubernetes reads it, and the line at which a field stands; YAML is in yaml_documents.py.

Reading keeps no positions, which would cost more than all else; a line is looked up by reading once more, and
only where something is wrong.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterator

import msgspec

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises where text is not the JSON that is asked for; the last two are no errors of its own."""

_PIECE = 64 * 1024

Step = str | int
"""A step of a path: the key of a mapping, or the index of a sequence."""


class MalformedError(ValueError):
    """Text that is not what it should be, and the line where that shows."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


def check_text(data: bytes) -> bytes:
    """Return UTF-8 text without its byte order mark; raise MalformedError for anything else."""
    if not _is_utf8(data):
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise MalformedError(line_at(data, error.start), "not UTF-8 text") from None
    if b"\0" in data:
        raise MalformedError(line_at(data, data.index(b"\0")), "a NUL byte, so this is not text")
    return data.removeprefix(b"\xef\xbb\xbf")


def _is_utf8(data: bytes) -> bool:
    """Tell whether it is UTF-8, piece by piece: as a whole it would be in memory a second time."""
    view, decoder = memoryview(data), codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(data), _PIECE):
            decoder.decode(view[start : start + _PIECE])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def explain(error: Exception) -> tuple[str, str]:
    """Take "Expected `int | null`, got `str` - at `$.spec.ports[0].port`" of msgspec apart: field, reason."""
    reason, _, path = str(error).partition(" - at `$")
    reason = reason.replace(" | null", "").replace("`", "").replace("Expected", "expected")
    return path.strip(".`") or "object", reason


def steps_of(field: str) -> list[Step]:
    """Split a path such as spec.ports[0].port."""
    return [
        int(step[1:-1]) if step.startswith("[") else step
        for step in re.findall(r"[^.\[\]]+|\[[0-9]+\]", field)
    ]


def line_at(data: bytes, offset: int) -> int:
    """Return the line, counted from 1, in which a byte of a text stands."""
    return data.count(b"\n", 0, offset) + 1


# --- JSON ---------------------------------------------------------------------------------------------------

# Numbers stay text: Python refuses to convert those of more than 4300 digits.
_JSON = json.JSONDecoder(parse_int=str, parse_float=str)
_SPACE = re.compile(r"[ \t\n\r]*")


def split_json(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split documents that stand one after the other; each comes with the line where it begins."""
    text = data.decode()
    position = _after_space(text, 0)
    line = 1 + text.count("\n", 0, position)
    while position < len(text):
        try:
            _, end = _JSON.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise MalformedError(error.lineno, error.msg) from None
        except RecursionError:
            raise MalformedError(line, "nested too deeply") from None
        yield line, text[position:end].encode()
        end = _after_space(text, end)
        line += text.count("\n", position, end)
        position = end


class JsonLines:
    """Finds lines in a JSON file. Quick where the objects asked for come in the order of the file."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._line = 1

    def line(self, part: bytes, field: str) -> int:
        """Return the line of a field of an object whose text stands in the file as this part."""
        position = self._data.find(part, self._position)
        if position < 0:
            return self._line
        self._line += self._data.count(b"\n", self._position, position)
        self._position = position
        text = part.decode()
        try:
            offset = _offset(text, steps_of(field))
        except RecursionError:  # Python's reader gives up before that of the objects
            offset = 0
        return self._line + text.count("\n", 0, offset)


def _offset(text: str, steps: list[Step]) -> int:
    """Return where the value at the end of a path begins, or as much of the path as there is."""
    position = _after_space(text, 0)
    for step in steps:
        found = [child for key, child in _children(text, position) if key == step]
        if not found:
            break
        position = found[-1]  # of keys that occur twice the last counts
    return position


def _children(text: str, position: int) -> Iterator[tuple[Step, int]]:
    """Yield the key or index of each child of a JSON value, and where the child begins."""
    is_mapping = text[position] == "{"
    if not is_mapping and text[position] != "[":
        return
    position = _after_space(text, position + 1)
    for index in itertools.count():
        if text[position] in "}]":
            return
        key: Step = index
        if is_mapping:
            key, position = _JSON.raw_decode(text, position)
            position = _after_space(text, _after_space(text, position) + len(":"))
        yield key, position
        position = _after_space(text, _JSON.raw_decode(text, position)[1])
        if text[position] == ",":
            position = _after_space(text, position + 1)


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()
