"""The order of ipvsadm's listings, which is no order in the strict sense.

ipvsadm (ipvs_cmp_services and ipvs_cmp_dests of libipvs.c, 1.31) compares marks and the 32-bit words of
addresses by the sign of their difference, which wraps: 192.168.0.1 comes before 10.0.0.1, as 0xC0A80001 less
0x0A000001 is negative in 32 bits. Such numbers lie on a circle. Where an arc of less than half of it holds
them all, the comparison is an order, and they are sorted by their distance from the beginning of the arc.
Where none does, the outcome depends on the algorithm, and ipvsadm's is the merge sort of glibc's qsort.
"""

from __future__ import annotations

import itertools
import operator
import struct
from collections.abc import Iterable, Sequence
from typing import TypeVar

from ipvs_agent.addresses import Address
from ipvs_agent.observed import ObservedRealServer, ObservedVirtualServer

_T = TypeVar("_T")
_Numbers = tuple[int, ...]

_MASK = 0xFFFFFFFF
_HALF = 1 << 31
_NO_ARC = -1
_words = struct.Struct("!4I").unpack
_address = operator.attrgetter("real_server.address")
_endpoint = operator.attrgetter("real_server.address", "real_server.port")


def sort_virtual_servers(
    entries: Iterable[tuple[ObservedVirtualServer, _T]],
) -> list[tuple[ObservedVirtualServer, _T]]:
    """Sort virtual servers by mark, family, protocol, address and port; with each goes what is said of it."""
    entries = list(entries)
    return _sort(entries, [_entry_key(observed) for observed, _ in entries])


def sort_real_servers(servers: Sequence[ObservedRealServer]) -> list[ObservedRealServer]:
    """Sort real servers by address and port."""
    if len(servers) < 2:
        return list(servers)
    if all(len(address) == 4 for address in map(_address, servers)):
        ordered = sorted(servers, key=_endpoint)
        lowest, highest = map(int.from_bytes, map(_address, (ordered[0], ordered[-1])))
        if highest - lowest < _HALF:
            return ordered  # octets compare as numbers, and here that is all
    return _sort(servers, [(*_padded(address), port) for address, port in map(_endpoint, servers)])


def sort_outlined(lines: Sequence[str]) -> list[str] | None:
    """Sort lines of the kernel's own listing by address and port, if they compare as their numbers do."""
    if not all(line[13] == ":" for line in lines):
        return None  # an IPv6 address is among them
    ordered = sorted(lines)
    if not ordered or int(ordered[-1][5:13], 16) - int(ordered[0][5:13], 16) < _HALF:
        return ordered
    return None


def _entry_key(observed: ObservedVirtualServer) -> _Numbers:
    key = observed.virtual_server.key
    return (key.mark, key.family, key.protocol, *_padded(key.address), key.port)


def _padded(address: Address) -> _Numbers:
    return _words(address.ljust(16, b"\0"))


def _sort(items: Sequence[_T], keys: Sequence[_Numbers]) -> list[_T]:
    """Sort items by keys of equal length, whose first differing numbers decide."""
    origins = [_origin(column) for column in zip(*keys, strict=True)]
    if _NO_ARC in origins:
        return [item for _key, item in _merge_sort(list(zip(keys, items, strict=True)))]
    if any(origins):
        keys = [
            tuple([(number - origin) & _MASK for number, origin in zip(key, origins, strict=True)])
            for key in keys
        ]
    return [item for _key, item in sorted(zip(keys, items, strict=True), key=operator.itemgetter(0))]


def _origin(numbers: Sequence[int]) -> int:
    """Return where the arc begins that holds the numbers, _NO_ARC where none does."""
    lowest, highest = min(numbers), max(numbers)
    if highest - lowest < _HALF:
        return 0
    ordered = sorted(set(numbers))
    for before, after in itertools.pairwise(ordered):
        if after - before > _HALF:
            return after
    return _NO_ARC


def _merge_sort(pairs: list[tuple[_Numbers, _T]]) -> list[tuple[_Numbers, _T]]:
    """Sort as msort_with_tmp of glibc does, which halves the list with the odd one in the second half."""
    if len(pairs) < 2:
        return pairs
    middle = len(pairs) // 2
    left, right = _merge_sort(pairs[:middle]), _merge_sort(pairs[middle:])
    merged = []
    i = j = 0
    while i < len(left) and j < len(right):
        if _follows(left[i][0], right[j][0]):
            merged.append(right[j])
            j += 1
        else:
            merged.append(left[i])
            i += 1
    return merged + left[i:] + right[j:]


def _follows(one: _Numbers, other: _Numbers) -> bool:
    """Say whether ipvsadm's comparison puts one behind the other: their difference is above 0 in 32 bits."""
    for a, b in zip(one, other, strict=True):
        if a != b:
            return 0 < (a - b) & _MASK < _HALF
    return False
