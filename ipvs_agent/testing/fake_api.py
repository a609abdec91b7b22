"""A small API server on loopback, strict about what it is asked, that fails when told to.

It keeps Services, EndpointSlices and Nodes with resource versions and a history, answers lists (whole or in
pages, compressed where they are long) and watches (with bookmarks, with or without WatchList) by the rules of
the real one, and records what was asked. Parameters and selectors that it does not model are refused, so that
no test passes by their being ignored.
"""

from __future__ import annotations

import contextlib
import copy
import enum
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from ipvs_agent.testing.fake_http import Answer, Fault, Object, Refuse, Request, Server, Stream, to_json

SERVICES = "/api/v1/services"
ENDPOINT_SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
NODES = "/api/v1/nodes"

_KINDS = {SERVICES: "Service", ENDPOINT_SLICES: "EndpointSlice", NODES: "Node"}
_PATHS = {kind: path for path, kind in _KINDS.items()}
_PARAMETERS = {
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
}
_PATIENCE = 10.0


class WatchList(enum.Enum):
    """What becomes of a request for a stream of initial events."""

    OFFERED = enum.auto()
    FORBIDDEN = enum.auto()
    """422: the feature gate is off."""
    BROKEN = enum.auto()
    """An error as the first event: the database of the server is too old for it."""
    UNKNOWN = enum.auto()
    """The parameter is ignored."""


class FakeApi:
    """The server; a context manager.

    cluster_ip_selector: whether Services can be selected by spec.clusterIP.
    tokens: the bearer tokens that it accepts.
    """

    def __init__(
        self,
        *,
        watch_list: WatchList = WatchList.OFFERED,
        cluster_ip_selector: bool = True,
        tokens: Sequence[str] = ("token",),
    ) -> None:
        self.tokens = set(tokens)
        self.requests: list[Request] = []
        self._watch_list = watch_list
        self._cluster_ip_selector = cluster_ip_selector
        self._changed = threading.Condition()
        self._version = 100
        self._oldest = 100
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._history: list[tuple[int, str, Object | None, Object | None]] = []
        """For each change the version, the path, the object as it was, and as it is."""
        self._faults: dict[str, list[Fault | None]] = {path: [] for path in _KINDS}
        self._watches: list[_Watch] = []
        self._server = Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="fake API")

    def __enter__(self) -> FakeApi:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        for path in _KINDS:
            self.drop_watches(path)
        self._server.server_close()

    @property
    def url(self) -> str:
        """Return the server's URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def write_kubeconfig(self, folder: Path, token: str = "token") -> str:  # noqa: S107 - a fake's
        """Write a kubeconfig whose token is in a file beside it; return its path."""
        (folder / "token").write_text(token)
        path = folder / "kubeconfig"
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "fake",
                    "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
                    "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
                    "users": [{"name": "fake", "user": {"tokenFile": str(folder / "token")}}],
                }
            )
        )
        return str(path)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Have everything that is done inside happen between two requests."""
        with self._changed:
            yield

    # --- What is there -------------------------------------------------------------------------------------

    def put(self, thing: Object) -> int:
        """Create or replace an object; return its resource version."""
        path = _PATHS[thing["kind"]]
        with self._changed:
            new = self._stamped(thing)
            old = self._objects.get(_key(path, thing))
            self._objects[_key(path, thing)] = new
            self._record(path, old, new)
            return self._version

    def delete(self, thing: Object) -> int:
        """Delete an object; return the resource version of its end."""
        path = _PATHS[thing["kind"]]
        with self._changed:
            old = self._stamped(self._objects.pop(_key(path, thing)))
            self._record(path, old, None)
            return self._version

    def _stamped(self, thing: Object) -> Object:
        self._version += 1
        thing = copy.deepcopy(thing)
        thing["metadata"]["resourceVersion"] = str(self._version)
        return thing

    def _record(self, path: str, old: Object | None, new: Object | None) -> None:
        self._history.append((self._version, path, old, new))
        for watch in self._watches_of(path):
            watch.tell(old, new)

    def compact(self) -> int:
        """Forget the history, so that who watches from before must list again; return the version."""
        with self._changed:
            self._version += 1
            self._oldest = self._version
            self._history.clear()
            return self._version

    def go_back(self, version: int) -> None:
        """Have an older version, as after a restore of the database."""
        with self._changed:
            self._version = self._oldest = version
            self._history.clear()

    # --- What goes wrong -----------------------------------------------------------------------------------

    def fail(self, path: str, *faults: Fault | None) -> None:
        """Have the next requests for a path meet these faults, one each; None: that one meets none."""
        with self._changed:
            self._faults[path].extend(faults)

    def say(self, path: str, text: bytes) -> None:
        """Send bytes to the watches of a path, whatever they are."""
        with self._changed:
            for watch in self._watches_of(path):
                watch.pieces.put(text)

    def bookmark(self, path: str) -> None:
        """Send a bookmark to the watches of a path."""
        with self._changed:
            for watch in self._watches_of(path):
                watch.pieces.put(self._bookmark(path, {}))

    def end_watches(self, path: str) -> None:
        """End the watches of a path in good order, as at their timeout."""
        with self._changed:
            for watch in self._watches_of(path):
                watch.pieces.put(b"")

    def drop_watches(self, path: str) -> None:
        """Break the watches of a path off."""
        with self._changed:
            for watch in self._watches_of(path):
                watch.pieces.put(None)

    # --- What was asked ------------------------------------------------------------------------------------

    def requests_for(self, path: str, count: int) -> list[Request]:
        """Wait until a path was asked for so often, and return all that was asked of it."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._asked(path)) >= count, _PATIENCE):
                raise AssertionError(f"{path} was asked for {len(self._asked(path))} times, not {count}")
            return self._asked(path)

    def _asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    # --- Answers -------------------------------------------------------------------------------------------

    def accept(self, request: Request) -> Answer:
        """Answer a request."""
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
            if request.path not in _KINDS:
                return Refuse(404, "NotFound")
            if request.authorization.removeprefix("Bearer ") not in self.tokens:
                return Refuse(401, "Unauthorized", "Unauthorized")
            told = self._faults[request.path]
            fault = (told.pop(0) if told else None) or self._check(request)
            if fault is not None:
                return fault
            if "watch" in request.query:
                return self._watch(request)
            return self._list(request)

    def _check(self, request: Request) -> Refuse | None:
        """Refuse what the real one refuses."""
        query = request.query
        unknown = query.keys() - _PARAMETERS
        if unknown:
            return Refuse(501, "NotModelled", f"FakeApi does not model the parameters {sorted(unknown)}")
        if "spec.clusterIP" in query.get("fieldSelector", "") and not self._cluster_ip_selector:
            return Refuse(400, "BadRequest", "field label not supported: spec.clusterIP")
        if "watch" in query:
            invalid = _invalid_watch(query, is_forbidden=self._watch_list is WatchList.FORBIDDEN)
        else:
            invalid = _invalid_list(query)
        if invalid:
            return Refuse(422, "Invalid", invalid)
        version = int(query.get("resourceVersion", "0"))
        if version > self._version:
            text = f"Too large resource version: {version}, current: {self._version}"
            return Refuse(504, "Timeout", text, cause="ResourceVersionTooLarge", retry_after=1)
        resumes = "watch" in query and "sendInitialEvents" not in query and version > 0
        if resumes and version < self._oldest:
            return Refuse(410, "Expired", f"too old resource version: {version}")
        return None

    def _list(self, request: Request) -> list[bytes]:
        matches = _selector(request.query)
        found = [
            self._objects[key]
            for key in sorted(self._objects)
            if key[0] == request.path and matches(self._objects[key])
        ]
        start = int(request.query.get("continue", "0"))
        # The watch cache answers what names a resource version, and it does not page.
        limit = int(request.query.get("limit", "0")) if "resourceVersion" not in request.query else 0
        page = found[start : start + limit] if limit else found
        meta = {"resourceVersion": str(self._version)}
        if limit and start + limit < len(found):
            meta["continue"] = str(start + limit)
        kind = _KINDS[request.path]
        items = [{key: value for key, value in thing.items() if key != "kind"} for thing in page]
        text = to_json({"kind": f"{kind}List", "apiVersion": "v1", "metadata": meta, "items": items})
        return [text[at : at + 200] for at in range(0, len(text), 200)]

    def _watch(self, request: Request) -> Stream:
        watch = _Watch(request.path, _selector(request.query))
        version = int(request.query.get("resourceVersion", "0") or 0)
        asks_for_list = "sendInitialEvents" in request.query
        if asks_for_list and self._watch_list is WatchList.BROKEN:
            status = {"kind": "Status", "code": 500, "reason": "InternalError", "message": "too old an etcd"}
            watch.pieces.put(_event("ERROR", status))
            watch.pieces.put(b"")
        elif asks_for_list or version == 0:
            for key in sorted(self._objects):
                if key[0] == request.path:
                    watch.tell(None, self._objects[key])
            if asks_for_list and self._watch_list is WatchList.OFFERED:
                watch.pieces.put(self._bookmark(request.path, {"k8s.io/initial-events-end": "true"}))
        else:
            for at, path, old, new in self._history:
                if at > version and path == request.path:
                    watch.tell(old, new)
        self._watches.append(watch)
        self._changed.notify_all()
        return watch

    def forget(self, stream: Stream) -> None:
        """Note that a watch is over."""
        with self._changed:
            self._watches = [watch for watch in self._watches if watch is not stream]

    def _watches_of(self, path: str) -> list[_Watch]:
        return [watch for watch in self._watches if watch.path == path]

    def _bookmark(self, path: str, annotations: Mapping[str, str]) -> bytes:
        meta: Object = {"resourceVersion": str(self._version), "creationTimestamp": None}
        if annotations:
            meta["annotations"] = dict(annotations)
        return _event("BOOKMARK", {"kind": _KINDS[path], "apiVersion": "v1", "metadata": meta})


class _Watch(Stream):
    def __init__(self, path: str, matches: Callable[[Object], bool]) -> None:
        super().__init__()
        self.path = path
        self._matches = matches

    def tell(self, old: Object | None, new: Object | None) -> None:
        """Send what a change is to who sees only what matches."""
        had = old is not None and self._matches(old)
        has = new is not None and self._matches(new)
        if has and new is not None:
            self.pieces.put(_event("MODIFIED" if had else "ADDED", new))
        elif had and old is not None:
            self.pieces.put(_event("DELETED", old))


# The rules of ValidateListOptions in k8s.io/apimachinery.


def _invalid_watch(query: Mapping[str, str], *, is_forbidden: bool) -> str:
    match = query.get("resourceVersionMatch", "")
    if "sendInitialEvents" not in query:
        return "resourceVersionMatch is forbidden for watch unless sendInitialEvents is set" if match else ""
    if match != "NotOlderThan":
        return "sendInitialEvents requires resourceVersionMatch NotOlderThan"
    return "sendInitialEvents is forbidden unless WatchList is enabled" if is_forbidden else ""


def _invalid_list(query: Mapping[str, str]) -> str:
    if "sendInitialEvents" in query:
        return "sendInitialEvents is forbidden for list"
    if "resourceVersionMatch" in query and "continue" in query:
        return "resourceVersionMatch is forbidden when continue is provided"
    if "resourceVersionMatch" in query and "resourceVersion" not in query:
        return "resourceVersionMatch is forbidden unless resourceVersion is provided"
    return ""


def _selector(query: Mapping[str, str]) -> Callable[[Object], bool]:
    terms = [*query.get("labelSelector", "").split(","), *query.get("fieldSelector", "").split(",")]
    tests = [_term(term) for term in terms if term]
    return lambda thing: all(test(thing) for test in tests)


def _term(term: str) -> Callable[[Object], bool]:
    if term == "spec.clusterIP!=None":
        return lambda thing: thing["spec"].get("clusterIP") != "None"
    if term.startswith("metadata.name="):
        return lambda thing: "metadata.name=" + thing["metadata"]["name"] == term
    if term.startswith("!"):
        return lambda thing: term[1:] not in thing["metadata"].get("labels", {})
    raise NotImplementedError(f"FakeApi does not model the selector {term}")


def _key(path: str, thing: Object) -> tuple[str, str, str]:
    return path, thing["metadata"].get("namespace", ""), thing["metadata"]["name"]


def _event(kind: str, thing: Object) -> bytes:
    return to_json({"type": kind, "object": thing}) + b"\n"
