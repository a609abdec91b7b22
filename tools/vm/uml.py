"""User-Mode Linux: a kernel that is a program, with the host's root file system by hostfs.

It boots in two seconds and runs programs at nearly native speed, on one CPU. Its kernel has no nf_tables,
so `iptables` is the legacy one.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from tools.vm import backend, cache, cpus, guest
from tools.vm.errors import Unavailable

KERNEL = "linux.uml"
XSTATE_SOURCE = Path(__file__).with_name("xstate.c")

# Whatever name and path a program calls iptables by, it ends at one of these two files.
SETUP = """\
mount --bind /usr/lib/uml/modules /lib/modules
mount --bind /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi"""


class Uml:
    """Debian's user-mode-linux."""

    name = "uml"
    namespaces = ()

    def require(self) -> None:
        """Raise Unavailable when the kernel, or what compiles our preload for it, is missing."""
        missing = [program for program in (KERNEL, "gcc") if shutil.which(program) is None]
        if missing:
            raise Unavailable(f"backend uml: {', '.join(missing)} not found; run: tools/install uml")
        if os.geteuid() != 0:
            raise Unavailable(
                "backend uml: the machine sees the host's files with our rights; run it as root"
            )

    def setup(self, request: guest.Request) -> str:  # noqa: ARG002 - the same for every request
        """Show the kernel its modules, and `iptables` as it works there."""
        return SETUP

    def launch(self, request: guest.Request, folder: guest.Folder) -> backend.Launch:
        """Start the kernel, in the network namespace whose tap device is to be its link."""
        Path("/lib/modules").mkdir(exist_ok=True)  # where SETUP binds; a container's image may lack it
        enter = ["nsenter", f"--net=/run/netns/{request.network}"] if request.network else []
        # The kernel and its processes take turns by ptrace, one at a time: across two CPUs each turn wakes
        # the other CPU, and everything takes twice as long as on one.
        pin = ["taskset", "--cpu-list", str(cpus.claim(os.sched_getaffinity(0)))]
        kernel = shlex.join([*enter, *pin, *kernel_command(request, folder)])
        # Bash stays its parent: a kernel that panics aborts, and the first process of a namespace cannot.
        # The machine's memory is a file in /dev/shm, which in containers is often too small for it.
        return backend.Launch(f"""\
mount -t tmpfs -o size=100% tmpfs /dev/shm
export LD_PRELOAD={guest.quote(xstate_library())}
{kernel}
exit""")


def kernel_command(request: guest.Request, folder: guest.Folder) -> list[str]:
    """Return the command line of the kernel."""
    link = [f"{guest.GUEST_LINK}=tuntap,{guest.GATEWAY_LINK}"] if request.network else []
    return [
        KERNEL,
        f"mem={request.memory}",
        f"uml_dir={folder.path}/",
        "rootfstype=hostfs",
        "rootflags=/",
        "rw",
        f"init={folder.init}",
        "con=null",
        "con0=null,fd:1",
        "quiet",
        *link,
    ]


def xstate_library() -> Path:
    """Return the compiled preload, compiled once for each state of its source."""
    source = XSTATE_SOURCE.read_bytes()
    library = cache.folder() / f"xstate-{hashlib.sha256(source).hexdigest()[:12]}.so"
    if not library.exists():
        draft = library.with_suffix(f".{os.getpid()}")
        subprocess.run(["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", draft, XSTATE_SOURCE], check=True)
        draft.replace(library)
    return library
