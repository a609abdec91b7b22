"""Kernel modules, through modprobe, and only where one is missing.

A modprobe takes longer than the loading itself. So one is asked for everything at once, and also for what
sets and rules would else have the kernel start a modprobe for, one by one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ipvs_agent.errors import CommandFailed, InvalidRequest, KernelError, MissingModule

_TIMEOUT_SECONDS = 60
_NAME = re.compile(r"\w[\w-]*", re.ASCII)

# The kernel option behind each module that the agent may ask for.
_OPTIONS: Mapping[str, str] = {
    "ip_vs": "CONFIG_IP_VS",
    "nf_conntrack": "CONFIG_NF_CONNTRACK",
    "ip_set_hash_ip": "CONFIG_IP_SET_HASH_IP",
    "ip_set_hash_ipport": "CONFIG_IP_SET_HASH_IPPORT",
    "ip_set_hash_ipportip": "CONFIG_IP_SET_HASH_IPPORTIP",
    "xt_set": "CONFIG_NETFILTER_XT_SET",
}
_SCHEDULER_PREFIX = "ip_vs_"
# Loaded together with ip_vs where the kernel has them; where one is really missing, its user says so.
_COMPANIONS = (
    *("ip_vs_sh", "nf_conntrack", "dummy", "ip_set_hash_ip", "ip_set_hash_ipport"),
    *(
        "ip_set_hash_ipportip",
        "ip_set_hash_ipportnet",
        "ip_set_bitmap_port",
        "xt_set",
        "xt_mark",
        "xt_conntrack",
        "xt_addrtype",
    ),
    *("xt_tcpudp", "xt_MASQUERADE", "ipt_REJECT", "ip6t_REJECT"),
)


class NodeModules:
    """The modules of the running kernel."""

    def __init__(self, loaded: Path = Path("/sys/module"), installed: Path = Path("/lib/modules")) -> None:
        self._loaded = loaded
        self._installed = installed / os.uname().release
        self._listed: tuple[int, frozenset[str]] | None = None
        """What can be loaded, and when the list of it was written."""

    def load(self, *names: str) -> None:
        """Make sure that modules are there, loaded or built in; MissingModule says how to get one."""
        for name in names:
            if not _NAME.fullmatch(name):
                raise InvalidRequest(f"{name!r} is not the name of a kernel module")
        absent = self._absent(names)
        if absent and self._modprobe(absent).returncode:
            for name in names:
                if not self._is_there(name) and (done := self._modprobe([name])).returncode:
                    raise self._missing(name, " ".join(done.stderr.split()))

    def has(self, *names: str) -> bool:
        """Tell whether all of some modules are loaded or built in."""
        return all(map(self._is_there, names))

    def may_have(self, name: str) -> bool:
        """Tell whether a module is there or can be loaded, as far as the kernel's lists say."""
        loadable = self.loadable
        return loadable is None or self._is_there(name) or name in loadable

    def is_idle(self, name: str) -> bool:
        """Tell whether a module can be loaded and is not, as far as the kernel's lists say."""
        loadable = self.loadable
        return loadable is not None and name in loadable and not self._is_there(name)

    @property
    def loadable(self) -> frozenset[str] | None:
        """The modules that can be loaded; None where there is no list of them."""
        path = self._installed / "modules.dep"
        try:
            written = path.stat().st_mtime_ns
            if self._listed is None or self._listed[0] != written:
                # A line is "kernel/net/netfilter/ipvs/ip_vs_rr.ko.xz: what it needs".
                names = re.findall(r"^\S*?([\w-]+)\.ko\S*:", path.read_text(), re.MULTILINE)
                self._listed = written, frozenset(name.replace("-", "_") for name in names)
        except OSError:
            return None
        return self._listed[1]

    def try_to_load(self, *names: str) -> None:
        """Load what the kernel has of some modules, without a word where it has not."""
        if absent := self._absent(names):
            with contextlib.suppress(KernelError):
                self._modprobe(absent)

    def _absent(self, names: Sequence[str]) -> list[str]:
        """Return what is to be loaded so that modules are there, in the order of their names."""
        absent = [name for name in names if not self._is_there(name)]
        if "ip_vs" in absent:
            absent += [name for name in _COMPANIONS if name not in names and not self._is_there(name)]
        return absent

    def _modprobe(self, names: Sequence[str]) -> subprocess.CompletedProcess[str]:
        try:
            # -q also takes a module that is built in for loaded.
            return subprocess.run(
                ["modprobe", "-q", "-a", "--", *names],
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_SECONDS,
                check=False,
            )
        except FileNotFoundError as error:
            raise self._missing(names[0], "modprobe is not in PATH: install the package kmod") from error
        except OSError as error:
            raise CommandFailed(f"modprobe cannot be started: {error.strerror}", error.errno or 0) from error
        except subprocess.TimeoutExpired as error:
            raise self._missing(names[0], f"modprobe did not end within {_TIMEOUT_SECONDS} s") from error

    def _is_there(self, name: str) -> bool:
        wanted = name.replace("-", "_")
        # A module without parameters is not under /sys/module when it is built in.
        return (self._loaded / wanted).is_dir() or wanted in self._built_in

    @functools.cached_property
    def _built_in(self) -> frozenset[str]:
        try:
            lines = (self._installed / "modules.builtin").read_text().splitlines()
        except FileNotFoundError:
            return frozenset()
        return frozenset(line.rpartition("/")[2].removesuffix(".ko").replace("-", "_") for line in lines)

    def _missing(self, name: str, said: str) -> MissingModule:
        if said:
            reason = said
        elif self._installed.is_dir():
            reason = f"{self._installed} has no such module"
        else:
            reason = f"there is no folder {self._installed}: in a container, mount the node's /lib/modules"
        option = _OPTIONS.get(name) or (
            f"CONFIG_IP_VS_{name.removeprefix(_SCHEDULER_PREFIX).upper()}"
            if name.startswith(_SCHEDULER_PREFIX)
            else ""
        )
        needs = f" with {option}" if option else ""
        return MissingModule(
            f"the kernel module {name} cannot be loaded: {reason}; run `modprobe {name}` on the node, or boot"
            f" a kernel{needs} (Debian: the package linux-image-{_debian_architecture()})"
        )


def _debian_architecture() -> str:
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
