"""Starts a machine, shows its output while it runs, and leaves nothing of it behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tools.vm import guest
from tools.vm.backend import Backend
from tools.vm.errors import Died, Hung

POLL = 0.05
"""Seconds between two looks at the shared folder: writes from inside a machine wake nobody outside."""

CONSOLE_TAIL = 50
"""Lines: a panic and its trace."""

KILLED = 128 + signal.SIGKILL
"""The exit status of a command that SIGKILL ended. Where that was the kernel, it says why on its console."""


def run(backend: Backend, request: guest.Request, limit: float, stream: BinaryIO) -> int:
    """Run the command in a machine, copying its output to the stream; return its exit status."""
    with _shared_folder() as folder:
        folder.init.write_bytes(
            os.fsencode(guest.init_script(request, folder, backend.name, backend.setup(request)))
        )
        folder.init.chmod(0o755)
        folder.output.touch()
        with _started(backend, request, folder) as process:
            return _follow(process, folder, limit, stream)


@contextlib.contextmanager
def _shared_folder() -> Iterator[guest.Folder]:
    # Always in /tmp: TMPDIR may be below /run or /dev/shm, which a machine has of its own.
    path = Path(tempfile.mkdtemp(prefix="ipvs-agent-vm.", dir="/tmp"))
    try:
        yield guest.Folder(path)
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def _started(
    backend: Backend, request: guest.Request, folder: guest.Folder
) -> Iterator[subprocess.Popen[bytes]]:
    launch = backend.launch(request, folder)
    listeners = (launch.listener.fileno(),) if launch.listener else ()
    with folder.console.open("wb") as console:
        process = subprocess.Popen(
            command(backend.namespaces, launch.script),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            pass_fds=listeners,
            start_new_session=True,  # Ctrl-C is for us alone: we then end the machine
        )
    if launch.listener:
        launch.listener.close()
    try:
        yield process
    finally:
        _kill(process)


def command(namespaces: tuple[str, ...], script: str) -> list[str]:
    """Return the command that runs the script as the first process of fresh namespaces.

    The kernel ends all processes of a process namespace with its first one, so nothing that a machine
    starts can outlive it, also not us: if we are killed, unshare gets a signal, and passes it on.
    """
    unshare = ["unshare", "--mount", *namespaces, "--pid", "--fork", "--kill-child"]
    return ["setpriv", "--pdeathsig", "KILL", *unshare, "bash", "-ec", script]


def _kill(process: subprocess.Popen[bytes]) -> None:
    # unshare's child first, so that unshare reaps it: a container's first process often would not.
    for child in _children(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    try:
        process.wait(timeout=1)
    except subprocess.TimeoutExpired:  # it had no child yet
        process.kill()
        process.wait()


def _children(pid: int) -> list[int]:
    try:
        listing = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:  # it has ended by itself
        return []
    return [int(child) for child in listing.split()]


def _follow(process: subprocess.Popen[bytes], folder: guest.Folder, limit: float, stream: BinaryIO) -> int:
    deadline = time.monotonic() + limit
    with folder.output.open("rb") as output:
        while True:
            # Looked at before the output is read, so that nothing printed before the end is missed.
            has_status, has_ended = folder.status.exists(), process.poll() is not None
            shutil.copyfileobj(output, stream)
            stream.flush()
            if has_status:
                status = int(folder.status.read_text())
                if status == KILLED:
                    print(f"vm: the command was killed; {_console(folder)}", file=sys.stderr)
                return status
            if has_ended:
                raise Died(f"the machine ended before its command did; {_console(folder)}")
            if time.monotonic() > deadline:
                raise Hung(f"the command did not end within {limit:g} s; {_console(folder)}")
            time.sleep(POLL)


def _console(folder: guest.Folder) -> str:
    lines = folder.console.read_text(errors="replace").splitlines()[-CONSOLE_TAIL:]
    return "\n  | ".join(["the end of its console:", *lines])
