"""A client that asks without pause, to show that nothing is lost while something changes."""

from __future__ import annotations

import threading

from tools.lab import talk
from tools.lab.network import Host


class Asking:
    """Asks over TCP, each time on a new connection, from now until end()."""

    def __init__(self, client: Host, address: str, port: int = 80) -> None:
        self.pods: list[str] = []
        """Who answered, in the order of the answers."""
        self.failures: list[str] = []
        self._where = (client.namespace, talk.TCP, address, port)
        self._is_ending = threading.Event()
        self._fault: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"asking {address}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop asking; raise what ended it before."""
        self._is_ending.set()
        self._thread.join()
        if self._fault is not None:
            raise self._fault

    def _run(self) -> None:
        try:
            while not self._is_ending.is_set():
                try:
                    self.pods.append(talk.ask(*self._where).name)
                except OSError as error:
                    self.failures.append(repr(error))
        except Exception as fault:  # whatever it is, end() raises it
            self._fault = fault
