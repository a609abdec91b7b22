"""Services, EndpointSlices and Nodes from a file or a folder of manifests: no API server needed.

The files are looked at a few times a second, which sees every kind of change on every kind of file system.
What a file says is handed on as the difference to what it said before; one that cannot be read keeps what it
said last.
"""

from __future__ import annotations

import bisect
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from ipvs_agent.documents import MalformedError
from ipvs_agent.errors import SourceError
from ipvs_agent.model import ObjectName
from ipvs_agent.sources.changes import Change, Kind, Listed, Put, Rejected, Remark, Removed, Sink, Trouble
from ipvs_agent.sources.manifest import Manifest

POLL_SECONDS = 0.4
"""A change is seen at the next poll and read at the one after it, so within a second."""
ABSENT_POLLS = 2
"""So many polls a file must be missing before its objects go: editors replace files by name."""
COARSE = 2.0
"""Seconds within which some file systems give two changes of a file one and the same time."""
BATCH = 500
SUFFIXES = (".json", ".yaml", ".yml")
MAX_BYTES = 256 * 2**20
MAX_REMARKS = 5
"""So many remarks on a file are told in full."""

_Key = tuple[Kind, ObjectName]
_Signature = tuple[int, ...]


class _File(msgspec.Struct):
    """A file that was there at the last poll or the one before."""

    objects: dict[_Key, Put | Removed | Rejected] = {}
    nameless: frozenset[Rejected] = frozenset()
    remarks: tuple[str, ...] = ()
    seen: _Signature | None = None
    """As it looked at the last poll."""
    read: _Signature | None = None
    """As it looked when it was read last, whether that went well or not."""
    is_settled: bool = True
    """Whether any change since it was read would look different."""
    good: bool = False
    """Whether it has been read well at least once."""
    trouble: str = ""
    absent: int = 0
    """At how many polls it has been missing."""


class Manifests:
    """The objects of a file or folder; a Source.

    Of an object that is in several files the one first by name has it.
    """

    def __init__(self, path: Path, sink: Sink, poll_seconds: float = POLL_SECONDS) -> None:
        self._path = str(path)
        self._sink = sink
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="manifests", daemon=True)
        self._files: dict[str, _File] = {}
        self._claims: dict[_Key, list[str]] = {}
        """Which files have an object, in the order of their names."""
        self._shared: set[_Key] = set()
        """What is in more than one file."""
        self._said: dict[_Key, Put | Rejected] = {}
        """What the sink knows of each object."""
        self._troubles: Mapping[str, str] = {}
        self._remarks: Mapping[str, str] = {}
        self._batch: list[Change] = []
        self._first_scan = True
        self._listed = False

    def start(self) -> None:
        """Begin to read in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, within a second."""
        self._stopping.set()
        self._thread.join(timeout=1)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.scan()
            self._stopping.wait(self._poll_seconds)

    def scan(self) -> None:
        """Look at all files once, and hand over what has changed."""
        try:
            found = self._find()
        except SourceError as error:
            self._tell_troubles({**self._file_troubles(), self._path: str(error)})
        else:
            for path in sorted({*found, *self._files}):
                self._look(path, found.get(path))
            self._first_scan = False
            self._tell_troubles(self._file_troubles())
            self._tell_remarks()
            if not self._listed and all(file.good for file in self._files.values()):
                self._tell_listed()
        self._flush()

    # --- Files ----------------------------------------------------------------------------------------------

    def _find(self) -> dict[str, os.stat_result | OSError]:
        """Return the manifests that are there; SourceError where that cannot be told."""
        try:
            status = os.stat(self._path)
            if not stat.S_ISDIR(status.st_mode):
                return {self._path: status}
            with os.scandir(self._path) as entries:
                return dict(_manifests_among(entries))
        except FileNotFoundError as error:
            if self._path in self._files and os.path.isdir(os.path.dirname(os.path.abspath(self._path))):
                return {}
            raise SourceError(error.strerror) from error
        except OSError as error:
            raise SourceError(error.strerror) from error

    def _look(self, path: str, status: os.stat_result | OSError | None) -> None:
        file = self._files.setdefault(path, _File())
        if status is None:
            file.absent += 1
            if file.absent >= ABSENT_POLLS:
                self._forget(path, file)
            return
        file.absent = 0
        if isinstance(status, OSError):
            file.trouble, file.read = str(status.strerror), None
            return
        signature = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        # At the first scan nothing waits that has been quiet for as long as a second look would take.
        age = time.time() - status.st_mtime
        is_quiet = signature == file.seen or (self._first_scan and age >= self._poll_seconds)
        file.seen = signature
        # Another file may take its place within a tick of a coarse clock and get its size and inode.
        is_settled = age >= COARSE or bool(status.st_mtime_ns % 10**9)
        if is_quiet and (signature != file.read or (is_settled and not file.is_settled)):
            file.read, file.is_settled = signature, is_settled
            self._read(path, file, status)

    def _read(self, path: str, file: _File, status: os.stat_result) -> None:
        try:
            data = _contents(path, status)
            if data is None:
                file.seen = file.read = None
                return
            manifest = Manifest(path, data)
        except (MalformedError, SourceError) as error:
            file.trouble = str(error)
        except OSError as error:
            file.trouble, file.read = str(error.strerror), None  # it may pass without a change of the file
        else:
            self._take(path, file, manifest)

    def _take(self, path: str, file: _File, manifest: Manifest) -> None:
        """Put what a file says now in the place of what it said before."""
        before, file.objects = file.objects, {}
        nameless = set()
        twice = []
        for change in manifest.changes():
            if self._stopping.is_set():
                return
            if change.name is None:
                nameless.add(change)
                continue
            key = (change.kind, change.name)
            if key in file.objects:
                twice.append(f"{change.kind.value} {change.name} is there twice, and the first counts")
                continue
            file.objects[key] = change
            self._claim(key, path)
        for key in before:
            if key not in file.objects:
                self._release(key, path)
        for rejected in nameless - file.nameless:
            self._tell(rejected)
        file.nameless = frozenset(nameless)
        file.remarks = (*manifest.remarks, *twice)
        file.trouble, file.good = "", True

    def _forget(self, path: str, file: _File) -> None:
        del self._files[path]
        for key in file.objects:
            self._release(key, path)

    # --- Objects --------------------------------------------------------------------------------------------

    def _claim(self, key: _Key, path: str) -> None:
        claims = self._claims.setdefault(key, [])
        if path not in claims:
            bisect.insort(claims, path)
            if len(claims) > 1:
                self._shared.add(key)
        self._settle(key, claims)

    def _release(self, key: _Key, path: str) -> None:
        claims = self._claims[key]
        claims.remove(path)
        if len(claims) < 2:
            self._shared.discard(key)
        if not claims:
            del self._claims[key]
        self._settle(key, claims)

    def _settle(self, key: _Key, claims: Sequence[str]) -> None:
        """Tell the sink of an object where it is not as the sink knows it."""
        known = self._said.get(key)
        change = self._files[claims[0]].objects[key] if claims else None
        if change == known:
            return
        if change is None or isinstance(change, Removed):
            if self._said.pop(key, None) is not None:
                self._tell(Removed(*key))
        else:
            self._said[key] = change
            self._tell(change)

    # --- The sink -------------------------------------------------------------------------------------------

    def _tell(self, change: Change) -> None:
        self._batch.append(change)
        if len(self._batch) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._batch:
            batch, self._batch = self._batch, []
            self._sink(batch)

    def _tell_listed(self) -> None:
        self._listed = True
        for kind in Kind:
            names = (
                key[1] for key, change in self._said.items() if key[0] is kind and isinstance(change, Put)
            )
            self._tell(Listed(kind, frozenset(names)))

    def _tell_troubles(self, troubles: Mapping[str, str]) -> None:
        for source in sorted({*self._troubles, *troubles}):
            message = troubles.get(source, "")
            if message != self._troubles.get(source, ""):
                self._tell(Trouble(source, message))
        self._troubles = troubles

    def _file_troubles(self) -> dict[str, str]:
        return {path: file.trouble for path, file in self._files.items() if file.trouble}

    def _tell_remarks(self) -> None:
        remarks = self._file_remarks()
        for source, message in sorted(remarks.items()):
            if message != self._remarks.get(source):
                self._tell(Remark(source, message))
        self._remarks = remarks

    def _file_remarks(self) -> dict[str, str]:
        remarks = {path: list(file.remarks) for path, file in self._files.items() if file.remarks}
        for kind, name in sorted(self._shared, key=lambda key: (key[0].value, key[1])):
            first, *others = self._claims[kind, name]
            for path in others:
                remark = f"{kind.value} {name} is in {first} too, and is taken from there"
                remarks.setdefault(path, []).append(remark)
        return {path: _summary(lines) for path, lines in remarks.items()}


def _manifests_among(entries: Iterable[os.DirEntry[str]]) -> Iterator[tuple[str, os.stat_result | OSError]]:
    for entry in entries:
        if entry.name.startswith(".") or not entry.name.endswith(SUFFIXES):
            continue
        try:
            status = entry.stat()
        except FileNotFoundError:
            continue  # gone since, or a link to nothing
        except OSError as error:
            yield entry.path, error
        else:
            if not stat.S_ISDIR(status.st_mode):
                yield entry.path, status


def _contents(path: str, status: os.stat_result) -> bytes | None:
    """Read a file; None where it is being written, SourceError where it is none to read."""
    if not stat.S_ISREG(status.st_mode):
        raise SourceError("is not a regular file")
    # Should it be a pipe by now, O_NONBLOCK keeps the open from waiting for a writer.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            return None
        if before.st_size > MAX_BYTES:
            raise SourceError(f"is larger than {MAX_BYTES // 2**20} MiB")
        data = file.read()
        after = os.fstat(file.fileno())
    return data if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns) else None


def _summary(lines: Sequence[str]) -> str:
    more = len(lines) - MAX_REMARKS
    return "; ".join([*lines[:MAX_REMARKS], *([f"and {more} more"] if more > 0 else [])])
