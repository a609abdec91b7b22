"""Clients that ask without pause, to show that nothing is lost while something changes."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from typing import Self

from tools.lab import talk
from tools.lab.network import Host


class _InBackground:
    """Works in a thread of its own, from now until end(); what it needs must be there before.

    As a context manager it ends with the block at the latest.
    """

    def __init__(self, name: str) -> None:
        self._is_ending = threading.Event()
        self._fault: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def end(self) -> None:
        """Have the work end, and wait for that; raise what ended it before."""
        self._stop()
        if self._fault is not None:
            raise self._fault

    def _stop(self) -> None:
        self._is_ending.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._work()
        except Exception as fault:  # whatever it is, end() raises it
            self._fault = fault

    def _work(self) -> None:
        raise NotImplementedError


class Asking(_InBackground):
    """Asks over TCP, each time on a new connection, from now until end()."""

    def __init__(self, client: Host, address: str, port: int = 80) -> None:
        self.pods: list[str] = []
        """Who answered, in the order of the answers."""
        self.failures: list[str] = []
        self._where = (client.namespace, talk.TCP, address, port)
        super().__init__(f"asking {address}")

    def _work(self) -> None:
        while not self._is_ending.is_set():
            try:
                self.pods.append(talk.ask(*self._where).name)
            except OSError as error:
                self.failures.append(repr(error))


class Datagrams(_InBackground):
    """Sends a datagram every 20 milliseconds, each from a port of its own, and counts what is not answered.

    What TCP would send again shows here: nothing is sent twice, and nothing waits for an answer.
    """

    _PAUSE = 0.02
    _UNANSWERED = 100
    """No more are sent while so many are under way."""
    _PATIENCE = 10.0
    """Seconds in which the last answers may come: a machine may stand still for a moment."""

    def __init__(self, client: Host, address: str, port: int = 80) -> None:
        self.answered = 0
        self.failures: list[str] = []
        """Those that were refused, and at the end those that nobody answered."""
        self._namespace, self._target = client.namespace, (address, port)
        self._selector = selectors.DefaultSelector()
        super().__init__(f"datagrams {address}")

    def _work(self) -> None:
        with talk.inside(self._namespace):
            while not self._is_ending.is_set():
                if len(self._selector.get_map()) < self._UNANSWERED:
                    self._send()
                time.sleep(self._PAUSE)
                self._receive(0)
            deadline = time.monotonic() + self._PATIENCE
            while self._selector.get_map() and time.monotonic() < deadline:
                self._receive(self._PAUSE)
        for key in list(self._selector.get_map().values()):
            self._forget(key.fileobj, "no answer")  # type: ignore[arg-type]
        self._selector.close()

    def _send(self) -> None:
        family = socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._selector.register(sock, selectors.EVENT_READ)
        try:
            sock.connect(self._target)
            sock.send(b"who\n")
        except OSError as error:
            self._forget(sock, repr(error))

    def _receive(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            sock: socket.socket = key.fileobj  # type: ignore[assignment]
            try:
                sock.recv(512)
            except OSError as error:
                self._forget(sock, repr(error))
            else:
                self.answered += 1
                self._forget(sock)

    def _forget(self, sock: socket.socket, failure: str = "") -> None:
        self._selector.unregister(sock)
        sock.close()
        if failure:
            self.failures.append(failure)
