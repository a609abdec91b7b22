"""Kernel settings, through /proc/sys."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from ipvs_agent.errors import InvalidRequest, KernelError, NotFound, PermissionDenied

_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)+", re.ASCII)  # no part begins with a dot
_KINDS: dict[int | None, type[KernelError]] = {
    errno.ENOENT: NotFound,
    errno.EACCES: PermissionDenied,
    errno.EPERM: PermissionDenied,
    errno.EROFS: PermissionDenied,
    errno.EINVAL: InvalidRequest,
}


class ProcSysctls:
    """The settings that the calling thread sees: those under net are of its network namespace."""

    def __init__(self, root: Path = Path("/proc/sys")) -> None:
        self._root = root

    def read(self, name: str) -> str:
        """Return a setting without the line's end; NotFound where the kernel has none of that name."""
        path = self._path(name)
        try:
            return path.read_text().rstrip("\n")
        except OSError as error:
            raise _error(f"cannot read the sysctl {name}", error) from error

    def write(self, name: str, value: str) -> None:
        """Set a setting, where it differs; a read-only /proc is fine as long as nothing differs."""
        # The kernel separates the numbers of a list by tabs, whatever they were written with.
        present = self.read(name)
        if present.split() == value.split():
            return
        try:
            self._path(name).write_text(value)
        except OSError as error:
            raise _error(f"cannot set the sysctl {name} to {value!r} (it is {present!r})", error) from error

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f"{name!r} is not the name of a sysctl, such as net/ipv4/ip_forward")
        return self._root / name


def _error(what: str, error: OSError) -> KernelError:
    kind = _KINDS.get(error.errno, KernelError)
    return kind(f"{what}: {error.strerror}", error.errno or 0)
