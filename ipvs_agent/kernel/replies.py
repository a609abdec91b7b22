"""Reads the same attributes out of many netlink replies, at the speed of struct.

The kernel fills all replies of one kind by the same code, so one shape fits thousands of them. The first
reply of each length is walked attribute by attribute, and the walk becomes one Struct for what is wanted. The
headers of all attributes are compared at once, as the bits that a mask leaves of the reply as one number, and
a reply whose headers are not the learned ones is walked anew: nothing is assumed of the kernel's order,
version or padding.
"""

from __future__ import annotations

import itertools
import operator
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ipvs_agent.kernel.netlink import NLA_TYPE_MASK

Path = tuple[int, ...]
"""Attribute types from the outermost nest inwards."""

_NUMBERS = {1: "B", 2: "H", 4: "I", 8: "Q"}
# Stand-ins for attributes that a reply lacks; they follow the values that its Struct gave.
_MISSING = (b"", 0)
_NO_OCTETS, _NO_NUMBER = -2, -1
_HEADER_BITS = b"\xff" * 4


class Field(NamedTuple):
    """A wanted attribute."""

    paths: tuple[Path, ...]
    """Where to find it; the first path that a reply has counts."""
    is_number: bool
    """A native unsigned number as wide as the attribute, 0 where there is none; else octets."""


def number(*paths: Path) -> Field:
    """Want a number."""
    return Field(paths, is_number=True)


def octets(*paths: Path) -> Field:
    """Want octets as they are, empty where there are none."""
    return Field(paths, is_number=False)


class _Layout(NamedTuple):
    unpack: Callable[[bytes], tuple[Any, ...]]
    mask: int
    """Every bit of a header."""
    headers: int
    """What the mask leaves of a reply of this layout."""
    pick: Callable[[tuple[Any, ...]], tuple[Any, ...]]


class ReplyReader:
    """Reads two or more fields out of replies that begin with a header of a given length."""

    def __init__(self, header_length: int, *fields: Field) -> None:
        self._header_length = header_length
        self._fields = fields
        self._numbers = {path for field in fields if field.is_number for path in field.paths}
        self._octets = {path for field in fields if not field.is_number for path in field.paths}
        self._nests = {path[:depth] for path in self._numbers | self._octets for depth in range(1, len(path))}
        self._layouts: dict[int, _Layout] = {}

    def read(self, reply: bytes) -> tuple[Any, ...]:
        """Return the values of the fields, in the order in which they were asked for."""
        layout = self._layouts.get(len(reply))
        if layout is None or int.from_bytes(reply) & layout.mask != layout.headers:
            layout = self._layouts[len(reply)] = self._learn(reply)
        return layout.pick(layout.unpack(reply) + _MISSING)

    def _learn(self, reply: bytes) -> _Layout:
        attributes = list(self._walk(reply, self._header_length, len(reply), ()))
        present = {path for path, code, _ in attributes if code}
        chosen = [next((path for path in field.paths if path in present), None) for field in self._fields]
        formats = [f"={self._header_length}x"]
        places: dict[Path | None, int] = {}
        values = itertools.count()
        mask = bytearray(self._header_length)
        for path, code, skipped in attributes:
            size = struct.calcsize(f"={code}")
            if path in chosen and code:
                places[path] = next(values)
                formats.append(f"4x{code}{skipped}x")
            else:
                formats.append(f"{4 + size + skipped}x")
            mask += _HEADER_BITS + bytes(size + skipped)
        indices = [
            places.get(path, _NO_NUMBER if field.is_number else _NO_OCTETS)
            for path, field in zip(chosen, self._fields, strict=True)
        ]
        bits = int.from_bytes(mask)
        layout = struct.Struct("".join(formats))
        return _Layout(layout.unpack, bits, int.from_bytes(reply) & bits, operator.itemgetter(*indices))

    def _walk(self, reply: bytes, offset: int, end: int, nest: Path) -> Iterator[tuple[Path, str, int]]:
        """Yield path, format code and the octets to skip after it, for each attribute, nests included.

        No code: nothing is wanted of it, apart from what is in a nest.
        """
        while offset + 4 <= end:
            length, kind = struct.unpack_from("=HH", reply, offset)
            path = (*nest, kind & NLA_TYPE_MASK)
            after = min((offset + length + 3) & ~3, end)
            size = length - 4
            room = after - offset - 4
            if path in self._nests:
                yield path, "", 0
                yield from self._walk(reply, offset + 4, after, path)
            elif path in self._numbers:
                yield path, _NUMBERS[size], room - size
            elif path in self._octets:
                yield path, f"{size}s", room - size
            else:
                yield path, "", room
            offset = after


def native(value: bytes) -> int:
    """Return the number in native order that octets hold."""
    return int.from_bytes(value, sys.byteorder)
