"""The file by which the agent tells `ipvs-agent status` what it does not serve as asked.

The agent holds a lock on the file for as long as it runs. The kernel lets go of it however the agent ends, so
a file without a lock is what an earlier agent has left. (A process number would not do: the agent has another
one inside of its container.)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from ipvs_agent.errors import AgentError
from ipvs_agent.model import ObjectName
from ipvs_agent.status import notes

PATH = Path("/run/ipvs-agent/notes.json")

_LARGEST = 1 << 26
_ATTEMPTS = 5
_BETWEEN_WRITES = 1.0
"""Seconds, at least: the file holds all the notes, and is written whole for each change."""


class NotesError(AgentError):
    """There are no notes to be read, or not of an agent that runs."""


class Notes:
    """Writes the notes; for one thread.

    warn: takes a line for people when the file cannot be written, once until it can be again.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn = warn
        self._lines: dict[ObjectName, tuple[str, ...]] = {}
        self._is_written = False
        self._is_failure_told = False
        self._held = -1
        """The descriptor that holds the lock on the file."""

    def replace(self, service: ObjectName, lines: tuple[str, ...]) -> None:
        """Note these lines about a Service instead of those before; none: it is served as it asks."""
        if lines == self._lines.get(service, ()):
            return
        self._is_written = False
        if lines:
            self._lines[service] = lines
        else:
            del self._lines[service]

    @property
    def are_written(self) -> bool:
        """Whether the file says all that was noted."""
        return self._is_written

    def flush(self) -> None:
        """Write the file where something changed, or it could not be written before."""
        if self._is_written:
            return
        try:
            self._write(notes.encode(self._lines))
        except OSError as error:
            if not self._is_failure_told:
                self._warn(f"notes for `status` cannot be written: {error}")
            self._is_failure_told = True
        else:
            self._is_written, self._is_failure_told = True, False

    def close(self) -> None:
        """Let go of the file, whose notes are then no longer true."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def _write(self, content: bytes) -> None:
        """Put a new file in the place of the old one, so that no reader sees a part of it."""
        with contextlib.suppress(FileExistsError):
            self._path.parent.mkdir()
        new = _draft(self._path)
        new.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with contextlib.ExitStack() as stack:
            descriptor = os.open(new, flags, 0o644)
            stack.callback(os.close, descriptor)
            stack.callback(new.unlink)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with open(descriptor, "wb", closefd=False) as file:
                file.write(content)
            new.replace(self._path)
            stack.pop_all()
        self.close()
        self._held = descriptor


class NotesWriter:
    """Takes notes from one thread and has another write them, so that the first waits for nothing."""

    def __init__(self, kept: Notes) -> None:
        self._notes = kept
        self._lock = threading.Lock()
        self._changes: dict[ObjectName, tuple[str, ...]] = {}
        """What the thread has not taken yet."""
        self._is_wanted = threading.Event()
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notes", daemon=True)

    def replace(self, service: ObjectName, lines: tuple[str, ...]) -> None:
        """Note these lines about a Service instead of those before; none: it is served as it asks."""
        with self._lock:
            self._changes[service] = lines

    def flush(self) -> None:
        """Have what was noted written soon."""
        if self._changes:
            self._is_wanted.set()

    def start(self) -> None:
        """Start the thread, which writes the file at once."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and let go of the file."""
        self._is_ending.set()
        self._is_wanted.set()
        self._thread.join()
        self._notes.close()

    def _run(self) -> None:
        while not self._is_ending.is_set():
            self._is_wanted.clear()
            with self._lock:
                changes, self._changes = self._changes, {}
            for service, lines in changes.items():
                self._notes.replace(service, lines)
            self._notes.flush()
            self._is_ending.wait(_BETWEEN_WRITES)
            # What could not be written is tried again.
            self._is_wanted.wait(None if self._notes.are_written else _BETWEEN_WRITES)


def is_left(path: Path) -> bool:
    """Tell whether there is a file of an agent that has ended."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and not _is_held(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove the file, and its folder where that holds nothing else; raise OSError."""
    for file in (path, _draft(path)):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others have something there, or it is mounted
        path.parent.rmdir()


def read(path: Path) -> notes.Notes:
    """Read the notes of the agent that runs here; NotesError says why there are none."""
    for _ in range(_ATTEMPTS):
        try:
            # A pipe in the file's place must not be waited for.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise NotesError(f"{path}: {error.strerror}") from error
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, descriptor)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotesError(f"{path}: is not a regular file")
            if _is_held(descriptor):
                with open(descriptor, "rb", closefd=False) as file:
                    content = file.read(_LARGEST + 1)
                break
            if _is_at(descriptor, path):
                raise NotesError(f"{path}: was left by an agent that has ended")
            # Replaced between our two looks at it.
    else:
        raise NotesError(f"{path}: is replaced faster than it can be read")
    if len(content) > _LARGEST:
        raise NotesError(f"{path}: is larger than {_LARGEST >> 20} MiB")
    try:
        return notes.decode(content)
    except ValueError as error:
        raise NotesError(f"{path}: {error}") from error


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _is_held(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _is_at(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
