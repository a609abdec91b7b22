"""The part of HTTP/1 that a node's pages need: which of them was asked for, and the answer as bytes.

What every client may send is understood or has a defined end; bodies are not read, nothing else is kept of a
request than how to frame its answer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

JSON = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}
"""The headers of an answer that is JSON."""
LONGEST_REQUEST = 8192
"""Octets of a request's line and headers."""

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(%s) ([!-~\x80-\xff]+) HTTP/1\.([0-9])" % _TOKEN)
# Of a target in absolute form, which every server has to take (RFC 9112, 3.2.2).
_AUTHORITY = re.compile(rb"^https?://[^/?]*", re.IGNORECASE)
_HEADER = re.compile(rb"(%s):([\t -~\x80-\xff]*)" % _TOKEN)
# A line may end without the carriage return, as Go's server takes it too.
_END = re.compile(rb"\r?\n\r?\n")


class Unanswerable(Exception):
    """Bytes that are no request; the connection ends with this status."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status)
        self.status = status


class Request(NamedTuple):
    """What of a request decides the form of its answer."""

    length: int
    """Octets that it took."""
    minor: int = 1
    """Of its version: 0 for HTTP/1.0, else 1."""
    wants_body: bool = True
    keeps_connection: bool = True
    path: str = "/"
    """Without a query, and as it was sent: `%2F` stays."""


def parse(data: bytes) -> Request | None:
    """Read the request that data begins with, or None where it is not complete; may raise Unanswerable."""
    end = _END.search(data)
    if end is None or end.end() > LONGEST_REQUEST:
        if len(data) > LONGEST_REQUEST:
            raise Unanswerable(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        return None
    first, *rest = (line.removesuffix(b"\r") for line in data[: end.start()].split(b"\n"))
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise Unanswerable(HTTPStatus.BAD_REQUEST)
    method, target, digit = line.groups()
    path = _AUTHORITY.sub(b"", target).partition(b"?")[0].decode("latin-1")
    minor = min(int(digit), 1)
    keeps_connection = minor == 1
    for text in rest:
        header = _HEADER.fullmatch(text)
        if header is None:
            raise Unanswerable(HTTPStatus.BAD_REQUEST)
        name, value = header[1].lower(), header[2].strip().lower()
        if name == b"connection":
            words = {word.strip() for word in value.split(b",")}
            keeps_connection = b"close" not in words and (keeps_connection or b"keep-alive" in words)
        elif (name == b"content-length" and value != b"0") or name == b"transfer-encoding":
            # What follows is a body that nobody reads, and would be taken for the next request.
            keeps_connection = False
            break
    return Request(end.end(), minor, method != b"HEAD", keeps_connection, path)


def answer(request: Request, status: HTTPStatus, headers: Mapping[str, str], body: bytes) -> bytes:
    """Write the answer to a request, with headers in the order in which Go's server has them."""
    lines = [f"HTTP/1.{request.minor} {status.value} {status.phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines.append(time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT", time.gmtime()))
    lines.append(f"Content-Length: {len(body)}")
    if not request.keeps_connection:
        lines.append("Connection: close")
    elif request.minor == 0:
        lines.append("Connection: keep-alive")
    return "\r\n".join([*lines, "", ""]).encode() + (body if request.wants_body else b"")


def text(request: Request, status: HTTPStatus, words: str) -> bytes:
    """Write an answer in plain text."""
    headers = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
    return answer(request, status, headers, words.encode())


def not_found(request: Request) -> bytes:
    """Write the answer for a page that there is not."""
    return text(request, HTTPStatus.NOT_FOUND, "404 page not found\n")


def refusal(status: HTTPStatus) -> bytes:
    """Write the answer to what is no request."""
    return text(Request(0, keeps_connection=False), status, f"{status.value} {status.phrase}")
