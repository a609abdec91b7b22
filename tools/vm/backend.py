"""What a backend is."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Protocol

from tools.vm import guest


@dataclass(frozen=True, slots=True)
class Launch:
    """How a machine is started."""

    script: str
    """Bash that ends when the machine does."""
    listener: socket.socket | None = None
    """A socket that the script inherits under its own number."""


class Backend(Protocol):
    """A way to a kernel that has IPVS."""

    @property
    def name(self) -> str:
        """The name that `--backend` takes and the command finds in IPVS_AGENT_VM."""

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The options of unshare(1) for the namespaces that this machine has beside mounts and processes."""

    def require(self) -> None:
        """Raise Unavailable when this host cannot run the machine."""

    def setup(self, request: guest.Request) -> str:
        """Return the lines of the init script that only this backend needs."""

    def launch(self, request: guest.Request, folder: guest.Folder) -> Launch:
        """Return how to start the machine that boots the folder's init script."""
