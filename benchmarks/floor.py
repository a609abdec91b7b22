"""The kernel's own floor: the same messages replayed from memory, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from unittest import mock

from ipvs_agent.kernel.netlink import (
    NETLINK_GENERIC,
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    Message,
    NetlinkSocket,
    Refusal,
)

WHAT: Mapping[int, str] = {NETLINK_GENERIC: "ipvs", NETLINK_NETFILTER: "sets", NETLINK_ROUTE: "vips"}
"""What the messages of each protocol are about."""


class Recording:
    """Bursts of netlink messages, each with the protocol of its socket."""

    def __init__(self) -> None:
        self.bursts: list[tuple[int, list[Message]]] = []

    @contextmanager
    def record(self) -> Iterator[None]:
        """Note every message that is sent in a with block."""
        real = NetlinkSocket.send

        def send(sock: NetlinkSocket, messages: Sequence[Message]) -> list[Refusal | None]:
            self.bursts.append((sock.protocol, list(messages)))
            return real(sock, messages)

        with mock.patch.object(NetlinkSocket, "send", send):
            yield

    def replay(self) -> dict[str, float]:
        """Send all of it again; return the seconds by what it is about. Every message must be accepted."""
        sockets = {protocol: NetlinkSocket(protocol) for protocol in WHAT}
        seconds = dict.fromkeys(WHAT.values(), 0.0)
        refused: list[Refusal] = []
        for protocol, messages in self.bursts:
            started = time.perf_counter()
            outcomes = sockets[protocol].send(messages)
            seconds[WHAT[protocol]] += time.perf_counter() - started
            refused += filter(None, outcomes)
        for sock in sockets.values():
            sock.close()
        if refused:
            raise RuntimeError(f"the kernel refused {len(refused)} replayed messages, first: {refused[0]}")
        return seconds
