"""A kube-apiserver on an etcd, as child processes that do not outlive the process that started them."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.kube import build, seed
from tests.kube.client import Client, Object, RefusedError
from tests.kube.etcd import Etcd

AGENT = "system:serviceaccount:kube-system:ipvs-agent"
"""A user that has only what deploy/rbac.yaml gives, once it is on the server."""
ADMIN = "admin"
NOBODY = "nobody"
_GROUPS = {AGENT: "system:serviceaccounts", ADMIN: "system:masters", NOBODY: "nobodies"}

_READY_LIMIT = 300.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class ServerError(Exception):
    """The server did not start; the message has the end of its log."""


class ApiServer:
    """A server with a database of its own, a random token for each user, and nothing in it but the defaults.

    address: where it listens; port: 0 for a free one.
    watch_list: whether it offers WatchList; where Debian's etcd is too old for it, that is why it does not.
    """

    def __init__(self, address: str = "127.0.0.1", port: int = 0, *, watch_list: bool = True) -> None:
        etcd, self._etcd_offers = build.etcd(watch_list=watch_list)
        self._programs = {"etcd": etcd, "kube-apiserver": build.program("kube-apiserver")}
        self._watch_list = watch_list
        self._address = address
        self._port = port or _free_port(address)
        self._folder = tempfile.TemporaryDirectory(prefix="ipvs-agent-kube-")
        self._path = Path(self._folder.name)
        self._tokens = {user: secrets.token_hex() for user in _GROUPS}
        self._etcd_url = f"http://127.0.0.1:{_free_port('127.0.0.1')}"
        self._etcd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ApiServer:
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            self._prepare()
            self._etcd = self._spawn("etcd", self._etcd_options())
            self.start()
            stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Return the server's URL."""
        return f"https://{self._address}:{self._port}"

    def client(self, user: str = ADMIN) -> Client:
        """Return a client; by default one that may do everything."""
        return Client(self.url, self._tokens[user], self._certificate)

    def wait_until_allowed(self, user: str, path: str) -> None:
        """Wait until a user may read a path: rights take effect a while after they were given."""
        deadline = time.monotonic() + _READY_LIMIT
        with self.client(user) as client:
            while True:
                try:
                    client.get(path)
                except RefusedError:
                    if time.monotonic() > deadline:
                        raise
                else:
                    return
                time.sleep(0.05)

    def kubeconfig(self, user: str = AGENT) -> Object:
        """Return a kubeconfig."""
        cluster = {"server": self.url, "certificate-authority": str(self._certificate)}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": self._tokens[user]}}],
        }

    # --- What is written past the server --------------------------------------------------------------------

    def seed(self, things: Sequence[Object]) -> None:
        """Make many Services and slices, faster than by creating them (tests/kube/seed.py)."""
        with self.client() as client, contextlib.closing(Etcd(self._etcd_url)) as etcd:
            seed.seed(things, client, etcd)

    def remove_slices(self, namespace: str) -> None:
        """Remove all slices of a namespace."""
        with contextlib.closing(Etcd(self._etcd_url)) as etcd:
            seed.remove_slices(namespace, etcd)

    # --- The server's process, apart from its database ------------------------------------------------------

    def start(self) -> None:
        """Start the server, and wait until it is ready."""
        self._server = self._spawn("kube-apiserver", self._server_options())
        self._await_ready(time.monotonic() + _READY_LIMIT)

    def kill(self) -> None:
        """End the server at once."""
        _end(self._server, signal.SIGKILL)

    def stop(self) -> None:
        """Have the server end in order, as for an upgrade, and wait for that."""
        _end(self._server, signal.SIGTERM)

    def pause(self) -> None:
        """Have the server keep its connections and say nothing."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End the pause."""
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End server and database, and remove what they wrote."""
        _end(self._server, signal.SIGKILL)
        _end(self._etcd, signal.SIGKILL)
        self._folder.cleanup()

    # --- Files, commands, processes -------------------------------------------------------------------------

    @property
    def _certificate(self) -> Path:
        return self._path / "certificates" / "apiserver.crt"

    def _prepare(self) -> None:
        rows = [f"{self._tokens[user]},{user},{user},{group}" for user, group in _GROUPS.items()]
        (self._path / "tokens.csv").write_text("\n".join(rows) + "\n")
        key = ["openssl", "genrsa", "-out", str(self._path / "accounts.key"), "2048"]
        subprocess.run(key, check=True, capture_output=True)

    def _etcd_options(self) -> list[str]:
        peer = f"http://127.0.0.1:{_free_port('127.0.0.1')}"
        return [
            f"--data-dir={self._path}/etcd",
            "--unsafe-no-fsync",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        ]

    def _server_options(self) -> list[str]:
        return [
            f"--etcd-servers={self._etcd_url}",
            f"--bind-address={self._address}",
            f"--advertise-address={self._address}",
            f"--secure-port={self._port}",
            f"--cert-dir={self._certificate.parent}",
            f"--token-auth-file={self._path}/tokens.csv",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            "--service-cluster-ip-range=10.96.0.0/12,fd00:10:96::/108",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._path}/accounts.key",
            f"--service-account-signing-key-file={self._path}/accounts.key",
            # There is no controller that would make the accounts' objects.
            "--disable-admission-plugins=ServiceAccount",
            # Without it the server would write its own address into default/kubernetes.
            "--endpoint-reconciler-type=none",
            *(["--feature-gates=WatchList=false"] if self._etcd_offers and not self._watch_list else []),
        ]

    def _spawn(self, name: str, options: list[str]) -> subprocess.Popen[bytes]:
        with (self._path / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [self._programs[name], *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, and it takes no lock
            )

    def _await_ready(self, deadline: float) -> None:
        assert self._server is not None
        while not self._is_ready():
            if self._server.poll() is not None or time.monotonic() > deadline:
                tail = (self._path / "kube-apiserver.log").read_text().splitlines()[-10:]
                raise ServerError("kube-apiserver does not get ready:\n" + "\n".join(tail))
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        # The certificate is there once the server has started for the first time.
        try:
            with self.client() as client:
                return bool(client.get("/readyz", parse=False) == b"ok")
        except (OSError, RefusedError, http.client.HTTPException):
            return False


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def die_with_parent() -> None:
    """Have the kernel end this process, a child before its exec, when its parent ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes] | None, number: signal.Signals) -> None:
    if process is not None and process.poll() is None:
        process.send_signal(number)
        process.wait()
