"""Which backend a run gets."""

from __future__ import annotations

from collections.abc import Mapping

from tools.vm.backend import Backend
from tools.vm.errors import Unavailable
from tools.vm.host import Host
from tools.vm.qemu import Qemu
from tools.vm.uml import Uml

BACKENDS: Mapping[str, Backend] = {backend.name: backend for backend in (Host(), Uml(), Qemu())}
AUTO = "auto"


def choose(name: str, backends: Mapping[str, Backend] = BACKENDS) -> Backend:
    """Return the backend of that name; `auto` is the host where it can be, else User-Mode Linux."""
    if name != AUTO:
        return backends[name]
    try:
        backends["host"].require()
    except Unavailable:
        return backends["uml"]
    return backends["host"]
