"""The few requests with which a test changes what is on an API server."""

from __future__ import annotations

import http.client
import json
import ssl
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

Object = dict[str, Any]

_PATHS = {
    "Namespace": "/api/v1/namespaces",
    "Node": "/api/v1/nodes",
    "Service": "/api/v1/namespaces/{}/services",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "IPAddress": "/apis/networking.k8s.io/v1/ipaddresses",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
    "DaemonSet": "/apis/apps/v1/namespaces/{}/daemonsets",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}
_TIMEOUT = 120.0


class RefusedError(Exception):
    """The server refused a request; the message is what it said."""


class Client:
    """A client of one server, with a bearer token and one connection; a context manager, for one thread."""

    def __init__(self, url: str, token: str, certificate: Path) -> None:
        tls = ssl.create_default_context(cafile=certificate)
        parts = urlsplit(url)
        assert parts.hostname
        self._connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=_TIMEOUT, context=tls
        )
        self._headers = {"Authorization": f"Bearer {token}"}

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def get(self, path: str, *, parse: bool = True) -> Any:
        """Read a path."""
        body = self._request("GET", path, None)
        return json.loads(body) if parse else body

    def wait_for_revision(self, thing: Object, revision: int) -> None:
        """Wait until the server's cache knows an object as it became with a revision."""
        self.get(f"{_path(thing)}?resourceVersion={revision}")

    def create(self, thing: Object, *, dry_run: bool = False) -> Object:
        """Create an object; every field must be known to the server."""
        query = "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        return self._json("POST", _collection(thing) + query, thing)

    def replace(self, thing: Object) -> Object:
        """Give an object that is there other content."""
        return self._json("PUT", f"{_path(thing)}?fieldValidation=Strict", thing)

    def patch(self, thing: Object, change: Object, *, part: str = "") -> Object:
        """Merge a change into an object, or into a part of it that has a path of its own, as "status"."""
        path = f"{_path(thing)}/{part}" if part else _path(thing)
        return self._json("PATCH", path, change, "application/merge-patch+json")

    def delete(self, thing: Object) -> None:
        """Delete an object."""
        self._json("DELETE", _path(thing), None)

    def delete_all(self, like: Object) -> None:
        """Delete all objects of the kind and namespace of this one that have its labels."""
        labels = ",".join(f"{name}={value}" for name, value in like["metadata"]["labels"].items())
        self._json("DELETE", f"{_collection(like)}?labelSelector={labels}", None)

    def _json(self, method: str, path: str, body: Object | None, media: str = "application/json") -> Object:
        data = None if body is None else json.dumps(body).encode()
        answer: Object = json.loads(self._request(method, path, data, media))
        return answer

    def _request(self, method: str, path: str, data: bytes | None, media: str = "application/json") -> bytes:
        headers = self._headers | {"Content-Type": media}
        try:
            self._connection.request(method, path, data, headers)
            response = self._connection.getresponse()
        except (ConnectionError, ssl.SSLError):  # a kept connection to a server that has since been stopped
            self._connection.close()
            self._connection.request(method, path, data, headers)
            response = self._connection.getresponse()
        body = response.read()
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise RefusedError(f"{method} {path}: {response.status} {body.decode(errors='replace')}")
        return body


def _collection(thing: Object) -> str:
    return _PATHS[thing["kind"]].format(thing["metadata"].get("namespace", ""))


def _path(thing: Object) -> str:
    return f"{_collection(thing)}/{thing['metadata']['name']}"
