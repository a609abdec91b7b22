"""The few requests with which objects are written past an API server, by the JSON gateway of its database."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from tests.kube.client import Object, RefusedError

_AT_ONCE = 32
"""Objects in a transaction: etcd takes 1.5 MB at once, and a slice of 100 endpoints has 30 KB."""
_TIMEOUT = 120.0


class Etcd:
    """A client of one etcd, with one connection; for one thread."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_TIMEOUT)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def put(self, things: Sequence[tuple[str, Object]]) -> int:
        """Write objects by their keys; return the revision of the last one, which no other one has."""
        puts = [
            {"requestPut": {"key": _encoded(key.encode()), "value": _encoded(_compact(thing).encode())}}
            for key, thing in things
        ]
        last = len(puts) - 1
        for begin in range(0, last, _AT_ONCE):
            self._request("txn", {"success": puts[begin : min(begin + _AT_ONCE, last)]})
        return int(self._request("txn", {"success": puts[last:]})["header"]["revision"])

    def delete_all(self, prefix: str) -> None:
        """Delete all objects whose keys begin so."""
        first = prefix.encode()
        behind = first[:-1] + bytes([first[-1] + 1])
        self._request("deleterange", {"key": _encoded(first), "range_end": _encoded(behind)})

    def _request(self, what: str, body: Object) -> Any:
        self._connection.request("POST", f"/v3/kv/{what}", json.dumps(body))
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != HTTPStatus.OK:
            raise RefusedError(f"etcd, {what}: {response.status} {answer.decode(errors='replace')}")
        return json.loads(answer)


def _compact(thing: Object) -> str:
    # As the server has it: what it says of managers it hands on as it reads it, with blanks if there are any.
    return json.dumps(thing, separators=(",", ":"))


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()
