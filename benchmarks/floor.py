"""The kernel's own floor: the same messages replayed from memory, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

from ipvs_agent.kernel.netlink import Message, NetlinkSocket, Refusal


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

    def replay(self) -> float:
        """Send all of it again and return the seconds that it took; every message must be accepted."""
        sockets = {protocol: NetlinkSocket(protocol) for protocol, _ in self.bursts}
        started = time.perf_counter()
        outcomes = [sockets[protocol].send(messages) for protocol, messages in self.bursts]
        seconds = time.perf_counter() - started
        refused = [refusal for burst in outcomes for refusal in burst if refusal is not None]
        if refused:
            raise RuntimeError(f"the kernel refused {len(refused)} replayed messages, first: {refused[0]}")
        return seconds
