"""Kernel modules, through modprobe, and only where one is missing."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ipvs_agent.errors import InvalidRequest, MissingModule

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


class NodeModules:
    """The modules of the running kernel."""

    def __init__(self, loaded: Path = Path("/sys/module"), installed: Path = Path("/lib/modules")) -> None:
        self._loaded = loaded
        self._installed = installed / os.uname().release

    def load(self, *names: str) -> None:
        """Make sure that modules are there, loaded or built in; MissingModule says how to get one."""
        for name in names:
            if not _NAME.fullmatch(name):
                raise InvalidRequest(f"{name!r} is not the name of a kernel module")
        absent = [name for name in names if not self._is_there(name)]
        if absent and self._modprobe(absent).returncode:
            for name in absent:
                done = self._modprobe([name])
                if done.returncode:
                    raise self._missing(name, " ".join(done.stderr.split()))

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
        except subprocess.TimeoutExpired as error:
            raise self._missing(names[0], f"modprobe did not end within {_TIMEOUT_SECONDS} s") from error

    def _is_there(self, name: str) -> bool:
        if (self._loaded / name.replace("-", "_")).is_dir():
            return True
        # A module without parameters is not under /sys/module when it is built in.
        try:
            lines = (self._installed / "modules.builtin").read_text().splitlines()
        except FileNotFoundError:
            return False
        wanted = name.replace("-", "_")
        return any(Path(line).name.removesuffix(".ko").replace("-", "_") == wanted for line in lines)

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
