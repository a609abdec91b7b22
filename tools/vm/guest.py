"""What runs inside every machine: an init script, and the files by which it reports.

Host and machine share one root file system, so a folder of it is the whole protocol: the command's output
grows in one file, and its exit status appears in another, complete, when it has ended. The machine is not
shut down after that but killed, which is quicker and the same for every backend.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

GATEWAY_LINK = "tap0"
"""The link of the network namespace that `--network` names; its owner gives it 198.18.0.1/30."""

GUEST_LINK = "eth9"
GUEST_ADDRESS = "198.18.0.2"

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Request:
    """A command, and the machine that it is to run in."""

    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str]
    memory: str = "2G"
    network: str | None = None


@dataclass(frozen=True, slots=True)
class Folder:
    """The files that host and machine share."""

    path: Path

    @property
    def init(self) -> Path:
        """The script that the machine starts with."""
        return self.path / "init"

    @property
    def output(self) -> Path:
        """What the command has printed so far."""
        return self.path / "output"

    @property
    def status(self) -> Path:
        """The command's exit status, absent until it has ended."""
        return self.path / "status"

    @property
    def console(self) -> Path:
        """What kernel, hypervisor and init script say: read when things go wrong."""
        return self.path / "console"


def init_script(request: Request, folder: Folder, backend: str, setup: str) -> str:
    """Return the text of the init script; `setup` is what only this backend needs."""
    variables = {
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",  # output goes to a file, which Python would else fill by blocks
        "IPVS_AGENT_VM": backend,
        **request.environment,
    }
    assignments = [f"{name}={value}" for name, value in variables.items()]
    network = (
        f"ip address add {GUEST_ADDRESS}/30 dev {GUEST_LINK}\nip link set {GUEST_LINK} up"
        if request.network
        else ""
    )
    status, draft = quote(folder.status), quote(folder.path / "status.draft")
    return f"""#!/bin/bash
set -eu
export PATH={PATH}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mkdir /run/lock /run/netns
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
hostname node-a
ip link set lo up
{setup}
{network}
cd {quote(request.directory)}
result=0
env --ignore-environment "PATH=$PATH" {shlex.join([*assignments, *request.command])} \\
    >>{quote(folder.output)} 2>&1 </dev/null || result=$?
sync
echo "$result" >{draft}
mv {draft} {status}
exec sleep infinity
"""


def quote(path: Path) -> str:
    """Quote a path for the shell."""
    return shlex.quote(str(path))
