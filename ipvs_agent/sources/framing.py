"""Objects out of an answer that is still arriving: the lines of a watch, and the items of a list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec

from ipvs_agent.documents import UNREADABLE
from ipvs_agent.errors import SourceError

ResourceVersion = Annotated[str, msgspec.Meta(min_length=1)]
"""Where in the history of the server's objects something is; opaque, and never absent."""


class ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    """What a list says of itself."""

    resource_version: ResourceVersion
    continue_: str = msgspec.field(default="", name="continue")


class _Envelope(msgspec.Struct):
    metadata: ListMeta
    items: list[msgspec.Raw] | None = None


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines that are complete; what follows the last line's end is dropped."""
    rest = b""
    for chunk in chunks:
        *complete, rest = (rest + chunk).split(b"\n")
        yield from filter(None, complete)


class ListReader:
    """Takes a list apart while it arrives, so that its text is never in memory as a whole.

    The items of a list have neither kind nor apiVersion, so each begins with its metadata, and the text
    between two items is `},{"metadata":`. It cannot be inside a string, where the quotes would be escaped.
    Inside an item it could be; a piece counts as an item only if it is JSON, and no JSON object is the
    beginning of another. A server that writes its lists in another way costs memory, and nothing else.
    """

    _START = b'"items":['
    _BETWEEN = b'},{"metadata":'

    def __init__(self) -> None:
        self._head = b""
        self._buffer = bytearray()
        self._searched = 0

    def feed(self, chunk: bytes) -> list[msgspec.Raw]:
        """Take a piece of the text, and return the items that are complete with it."""
        self._buffer += chunk
        if not self._head:
            start = self._buffer.find(self._START)
            if start < 0:
                return []
            start += len(self._START)
            self._head = bytes(self._buffer[:start])
            del self._buffer[:start]
        items = []
        begin = 0
        while (end := self._buffer.find(self._BETWEEN, self._searched)) >= 0:
            self._searched = end + 1
            item = bytes(self._buffer[begin : end + 1])
            if _is_json(item):
                items.append(msgspec.Raw(item))
                begin = end + 2
        del self._buffer[:begin]
        self._searched = max(0, self._searched - begin, len(self._buffer) - len(self._BETWEEN) + 1)
        return items

    def close(self) -> tuple[list[msgspec.Raw], ListMeta]:
        """Return the items that are left and what the list says of itself; SourceError: it is cut short."""
        try:
            envelope = msgspec.json.decode(self._head + self._buffer, type=_Envelope)
        except UNREADABLE as error:
            raise SourceError(f"the answer is not a list of objects: {error}") from error
        return envelope.items or [], envelope.metadata


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except UNREADABLE:
        return False
    return True
