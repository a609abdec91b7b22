"""Requests to the Kubernetes API: the `kubernetes` package configures and authenticates, urllib3 carries.

Only this module knows either of them. One request is under way at a time, on a connection of its own: the
agent's requests are few and long, and a connection kept idle for the next one is the one that turns out dead.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Protocol
from urllib.parse import urlencode

import kubernetes.client
import kubernetes.client.rest
import kubernetes.config
import urllib3
import yaml

from ipvs_agent import __version__
from ipvs_agent.errors import ConfigError, SourceError

CONNECT_TIMEOUT = 10.0
"""Seconds for the connection and, again, for the TLS handshake."""
ANSWER_TIMEOUT = 30.0
"""Seconds until the answer begins; a busy server queues a request for less (API priority and fairness)."""

_CHUNK = 1 << 16
_KEEPALIVE = (
    # Without these a peer that lost power looks like one with nothing to say. After 15 s + 3 * 5 s the kernel
    # ends the connection; a process that hangs is not seen by this (its kernel answers), but by the silence.
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


class Silence(SourceError):
    """A peer that is connected has said nothing for too long."""


class TlsFailure(SourceError):
    """The TLS handshake failed, usually because one side does not trust the other's certificate."""


class Response(Protocol):
    """The answer to a request, read as it arrives."""

    @property
    def status(self) -> int:
        """Return the HTTP status."""

    @property
    def retry_after(self) -> float:
        """Return how many seconds the server asks to be left alone, or 0."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the body in the pieces in which it arrives."""


class ApiClient:
    """A client of one API server.

    kubeconfig: the file's path, or None for the service account of the pod that this runs in.
    Raises ConfigError where that is missing or makes no sense.
    """

    def __init__(self, kubeconfig: str | None) -> None:
        self._kubeconfig = kubeconfig
        self._line = _Line()
        try:
            self._load()
        except SourceError as error:
            raise ConfigError(str(error)) from error

    @property
    def server(self) -> str:
        """Return the server's URL."""
        return str(self._configuration.host)

    def get(
        self, path: str, query: Mapping[str, str], silence: float
    ) -> contextlib.AbstractContextManager[Response]:
        """Ask for something, and end that with the context; silence: how long the body may pause, in seconds.

        Raises SourceError when there is no answer, and from the body when it breaks off.
        """
        return self._exchange(f"{self.server}{path}?{urlencode(query)}", None, silence)

    def post(self, path: str, body: bytes, silence: float) -> contextlib.AbstractContextManager[Response]:
        """Send an object, as JSON, to be made; the rest is as with get."""
        return self._exchange(f"{self.server}{path}", body, silence)

    @contextlib.contextmanager
    def _exchange(self, url: str, body: bytes | None, silence: float) -> Iterator[Response]:
        try:
            response = self._send(url, body)
            if response.status == HTTPStatus.UNAUTHORIZED:
                # Tokens of service accounts and of exec plugins are replaced before they end; ours has ended.
                response.close()
                self._load()
                response = self._send(url, body)
            with contextlib.closing(response):
                _allow_silence(response, silence)
                yield _Response(response)
        finally:
            self._pools.clear()
            self._line.release()

    def end(self) -> None:
        """End the request under way and all later ones, from any thread."""
        self._line.end()

    def _send(self, url: str, body: bytes | None) -> urllib3.BaseHTTPResponse:
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "gzip",  # the server compresses what is long, but for watches
            "User-Agent": f"ipvs-agent/{__version__}",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        for setting in self._configuration.auth_settings().values():
            headers[setting["key"]] = setting["value"]
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT, read=ANSWER_TIMEOUT)
        try:
            with _translated():
                response: urllib3.BaseHTTPResponse = self._pools.request(
                    "GET" if body is None else "POST",
                    url,
                    body=body,
                    headers=headers,
                    timeout=timeout,
                    preload_content=False,
                    retries=False,
                    redirect=False,
                )
        except TlsFailure:
            self._load()  # a certificate of either side may have been replaced on disk
            raise
        return response

    def _load(self) -> None:
        configuration = kubernetes.client.Configuration()
        try:
            if self._kubeconfig is None:
                kubernetes.config.load_incluster_config(client_configuration=configuration)
            elif not os.path.exists(self._kubeconfig):
                raise SourceError(f"kubeconfig {self._kubeconfig}: no such file")
            else:
                kubernetes.config.load_kube_config(self._kubeconfig, client_configuration=configuration)
            configuration.socket_options = list(_KEEPALIVE)
            pools = kubernetes.client.rest.RESTClientObject(configuration).pool_manager
        except (kubernetes.config.ConfigException, yaml.YAMLError, OSError, ValueError) as error:
            raise SourceError(self._unusable(error)) from error
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            # The package takes a value for what it should be, and says nothing of where it stands.
            raise SourceError(self._unusable(f"a value of a wrong type: {error!r}")) from error
        pools.pool_classes_by_scheme = self._line.pool_classes()
        self._configuration, self._pools = configuration, pools

    def _unusable(self, reason: object) -> str:
        if self._kubeconfig is not None:
            return f"kubeconfig {self._kubeconfig}: {reason}"
        return f"not in a pod of a cluster, so --kubeconfig FILE or --manifests PATH is needed: {reason}"


class _Response:
    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def retry_after(self) -> float:
        text = self._response.headers.get("Retry-After", "")
        return float(text) if text.isascii() and text.isdecimal() else 0.0

    def chunks(self) -> Iterator[bytes]:
        with _translated():
            yield from self._response.stream(_CHUNK, decode_content=True)


class _Line:
    """The TCP connection in use, held so that another thread can cut it whatever the reader waits for.

    It is held by a descriptor of its own: the one that urllib3 has may be wrapped in TLS, closed, or reused.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._ended = False

    def hold(self, connection: socket.socket) -> socket.socket:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
            self._socket = connection.dup()
            if self._ended:
                self._cut()
        return connection

    def release(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._cut()
                self._socket.close()
                self._socket = None

    def end(self) -> None:
        with self._lock:
            self._ended = True
            self._cut()

    def pool_classes(self) -> dict[str, type[urllib3.HTTPConnectionPool]]:
        """Return urllib3's pools, with connections that this line holds."""
        line = self

        class Plain(urllib3.connection.HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return line.hold(super()._new_conn())

        class Encrypted(urllib3.connection.HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return line.hold(super()._new_conn())

        class PlainPool(urllib3.HTTPConnectionPool):
            ConnectionCls = Plain

        class EncryptedPool(urllib3.HTTPSConnectionPool):
            ConnectionCls = Encrypted

        return {"http": PlainPool, "https": EncryptedPool}

    def _cut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # the peer was quicker
                self._socket.shutdown(socket.SHUT_RDWR)


def _allow_silence(response: urllib3.BaseHTTPResponse, seconds: float) -> None:
    connection = response.connection
    if isinstance(connection, urllib3.connection.HTTPConnection) and connection.sock is not None:
        connection.sock.settimeout(seconds)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except urllib3.exceptions.SSLError as error:
        raise TlsFailure(f"TLS: {_reason(error)}") from error
    except urllib3.exceptions.ReadTimeoutError as error:
        raise Silence("the server is connected but says nothing") from error
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        # ValueError: a read of a connection that end() has cut.
        raise SourceError(_reason(error)) from error


def _reason(error: BaseException) -> str:
    # urllib3's own texts begin with the repr of an object, whose address differs at each attempt.
    inner = error.__cause__ or next((part for part in error.args if isinstance(part, Exception)), None)
    return _reason(inner) if inner is not None else str(error) or type(error).__name__
