"""The HTTP of the fake API server: requests and answers as values, on loopback, in threads."""

from __future__ import annotations

import contextlib
import http.server
import json
import queue
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

Object = dict[str, Any]

_GZIP = 16 + zlib.MAX_WBITS
_LONG = 1 << 17
"""From so many octets on the API server compresses an answer (k8s.io/apiserver, responsewriters)."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request that was made."""

    path: str
    query: Mapping[str, str]
    authorization: str
    encodings: str
    """In which the answer may be."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer a request with a Status."""

    code: int
    reason: str
    message: str = "told to"
    cause: str = ""
    retry_after: int = 0


@dataclass(frozen=True, slots=True)
class Say:
    """Answer a request with these bytes instead, as the body of a 200, and end."""

    body: bytes
    encoding: str = ""
    """What the answer says of how they are to be read."""


class Hang:
    """Take a request and say nothing until the client goes away."""


class Drop:
    """Close the connection instead of an answer."""


Fault = Refuse | Say | Hang | Drop


class Stream:
    """The answer to a watch, which goes on."""

    def __init__(self) -> None:
        self.pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        """Parts of the body; empty: its end; None: the connection breaks."""


Answer = list[bytes] | Stream | Fault
"""The parts of a body, a stream, or a fault."""


class Application(Protocol):
    """What answers the requests."""

    def accept(self, request: Request) -> Answer:
        """Answer a request."""

    def forget(self, stream: Stream) -> None:
        """Note that a stream's client has gone, or its end was sent."""


class Server(http.server.ThreadingHTTPServer):
    """Serves an application on a free port of loopback."""

    daemon_threads = True

    def __init__(self, application: Application) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.application = application


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.close_connection = True
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        request = Request(parts.path, query, self._header("Authorization"), self._header("Accept-Encoding"))
        answer = self.server.application.accept(request)
        match answer:
            case Drop():
                pass
            case Hang():
                self.connection.recv(1)
            case Refuse():
                self._refuse(answer)
            case Say(body, encoding):
                self._begin(encoding=encoding)
                self._chunk(body)
                self._chunk(b"")
            case Stream():
                self._stream(answer)
            case pieces:
                self._say_whole(pieces)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass

    def _header(self, name: str) -> str:
        return str(self.headers.get(name, ""))

    def _say_whole(self, pieces: list[bytes]) -> None:
        """Send a body whose end is known, compressed where it is long and the client takes that."""
        encoding = ""
        if sum(map(len, pieces)) >= _LONG and "gzip" in self._header("Accept-Encoding"):
            encoding = "gzip"
            packer = zlib.compressobj(wbits=_GZIP)
            pieces = [*map(packer.compress, pieces), packer.flush()]
        with contextlib.suppress(OSError):  # the client has gone
            self._begin(encoding=encoding)
            for piece in filter(None, pieces):
                self._chunk(piece)
            self._chunk(b"")

    def _stream(self, stream: Stream) -> None:
        try:
            self._begin()
            while (piece := stream.pieces.get()) is not None:
                self._chunk(piece)
                if not piece:
                    break
        except OSError:
            pass  # the client has gone
        finally:
            self.server.application.forget(stream)

    def _refuse(self, refuse: Refuse) -> None:
        details: Object = {"retryAfterSeconds": refuse.retry_after} if refuse.retry_after else {}
        if refuse.cause:
            details["causes"] = [{"reason": refuse.cause}]
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": refuse.code,
            "reason": refuse.reason,
            "message": refuse.message,
            "details": details,
        }
        body = to_json(status)
        self.send_response(refuse.code)
        if refuse.retry_after:
            self.send_header("Retry-After", str(refuse.retry_after))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _begin(self, *, encoding: str = "") -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


def to_json(value: Object) -> bytes:
    """Write JSON as the API server does, without blanks."""
    return json.dumps(value, separators=(",", ":")).encode()
