"""Kernel settings, in memory."""

from __future__ import annotations

import errno

from ipvs_agent.errors import InvalidRequest, NotFound, PermissionDenied


class FakeSysctls:
    """Settings, at first those that the agent knows with the values of a fresh node."""

    def __init__(self) -> None:
        self.values = {
            "kernel/osrelease": "6.1.0-44-cloud-amd64",
            "net/ipv4/vs/conntrack": "0",
            "net/ipv4/vs/conn_reuse_mode": "1",
            "net/ipv4/vs/expire_nodest_conn": "0",
            "net/ipv4/vs/expire_quiescent_template": "0",
            "net/ipv4/vs/run_estimation": "1",
            "net/ipv4/ip_forward": "0",
            "net/ipv4/conf/all/arp_ignore": "0",
            "net/ipv4/conf/all/arp_announce": "0",
        }
        self.read_only = False
        self.written: list[tuple[str, str]] = []

    def read(self, name: str) -> str:
        """Return a setting; NotFound where there is none of that name."""
        if "/" not in name.strip("/") or name.startswith("/") or ".." in name:
            raise InvalidRequest(f"{name!r} is not the name of a sysctl")
        if name not in self.values:
            raise NotFound(f"cannot read the sysctl {name}: No such file or directory", errno.ENOENT)
        return self.values[name]

    def write(self, name: str, value: str) -> None:
        """Set a setting, where it differs."""
        if self.read(name) == value:
            return
        if self.read_only:
            raise PermissionDenied(f"cannot set the sysctl {name}: Read-only file system", errno.EROFS)
        if not value.isdecimal():
            raise InvalidRequest(f"cannot set the sysctl {name}: Invalid argument", errno.EINVAL)
        self.values[name] = value
        self.written.append((name, value))
