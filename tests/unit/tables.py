"""The tables that sh and mh fill from the kernel's list, as it does that, but with another hash."""

from __future__ import annotations

import hashlib
import itertools
import math

SIZES = {"sh": 256, "mh": 4093}


def filled(scheduler, listed):
    """Who has each place of a table; listed: the real servers in the kernel's order, the last added first.

    Those of weight 0 have had it from the beginning.
    """
    return (_filled_in_turn if scheduler == "sh" else _filled_by_hash)(listed)


def _filled_in_turn(listed):
    """ip_vs_sh_reassign: as many places as its weight, one at least."""
    once = [server.endpoint for server in listed for _ in range(max(1, server.weight))]
    return (once * SIZES["sh"])[: SIZES["sh"]]


def _filled_by_hash(listed):
    """ip_vs_mh_reassign and what it calls."""
    divisor = math.gcd(*(server.weight for server in listed))
    shift = max(0, (max(server.weight for server in listed) // divisor).bit_length() - 6)
    takers = [_Taker(one.endpoint, (one.weight // divisor >> shift) or 1) for one in listed if one.weight]
    places = [None] * SIZES["mh"]
    turns = itertools.cycle([taker for taker in takers for _ in range(taker.turns)])
    for taker in itertools.islice(turns, SIZES["mh"]):
        places[taker.next_of(places)] = taker.endpoint
    return places


class _Taker:
    def __init__(self, endpoint, turns):
        digest = hashlib.blake2b(repr(endpoint).encode(), digest_size=16).digest()
        self.endpoint = endpoint
        self.turns = turns
        self._place = int.from_bytes(digest[:8]) % SIZES["mh"]
        self._skip = int.from_bytes(digest[8:]) % (SIZES["mh"] - 1) + 1

    def next_of(self, places):
        while places[self._place] is not None:
            self._place = (self._place + self._skip) % SIZES["mh"]
        return self._place
