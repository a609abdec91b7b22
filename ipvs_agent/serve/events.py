"""Events: what a user of a Service is to learn from `kubectl describe`.

Thousands of agents may see the same fault of the same Service. So an Event's name derives from what it says:
the first agent makes it and all others are told that it exists. Agents without a part in the Service wait for
a random while before they try, and no agent sends more than a few a minute.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import NamedTuple, Protocol

import msgspec

from ipvs_agent.documents import UNREADABLE
from ipvs_agent.errors import SourceError

EVENTS_A_MINUTE = 60
"""How many requests one agent makes in any minute, repeated ones counted."""
FAR_WAIT = 60.0
"""Seconds within which agents far from a Service speak up."""
MOST_WAITING = 1000
PATIENCE = 600.0
"""Seconds for which an Event is tried."""

PATH = "/apis/events.k8s.io/v1/namespaces/{}/events"

_REPORTER = "ipvs-agent"
_FIRST_RETRY, _LAST_RETRY = 1.0, 60.0
_SILENCE = 30.0
_STOP_LIMIT = 1.0
# What the API takes (pkg/apis/core/validation/events.go), in octets.
_LONGEST_NOTE = 1024
_LONGEST_INSTANCE = 128
_LONGEST_LABEL = 63


class EventSubject(msgspec.Struct, frozen=True):
    """The object that an Event is about."""

    kind: str
    namespace: str
    """Empty for an object without one, as a Node."""
    name: str
    uid: str
    api_version: str = "v1"


class Answer(Protocol):
    """The answer to a request."""

    @property
    def status(self) -> int:
        """Return the HTTP status."""

    @property
    def retry_after(self) -> float:
        """Return how many seconds the server asks to be left alone, or 0."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the body."""


class Transport(Protocol):
    """What is asked of ApiClient."""

    def post(self, path: str, body: bytes, silence: float) -> contextlib.AbstractContextManager[Answer]:
        """Send an object to be made; SourceError where there is no answer."""

    def end(self) -> None:
        """End the request under way and all later ones."""


class NullRecorder:
    """Records nothing, where there is no API server."""

    def post(self, regarding: EventSubject, reason: str, note: str, *, action: str, near: bool) -> None:
        """Do nothing."""


class Recorder:
    """Sends Events from a thread of its own; what cannot be sent is counted, and disturbs nobody.

    warn: takes a line for people, from that thread, where the server refuses Events.
    clock: seconds that only go up; now: seconds since 1970; rng: for waits.
    """

    def __init__(
        self,
        transport: Transport,
        node_name: str,
        warn: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._transport = transport
        self._instance = f"{_REPORTER}-{node_name}"[:_LONGEST_INSTANCE]
        self._warn = warn
        self._clock = clock
        self._now = now
        self._rng = rng or random.Random()  # noqa: S311 - it spreads load
        self._lock = threading.Lock()
        self._waiting: list[_Letter] = []
        self._names: set[str] = set()
        """Paths with names of what waits or is being sent."""
        self._dropped = 0
        self._sent: deque[float] = deque(maxlen=EVENTS_A_MINUTE)
        self._refusals_told: set[int] = set()
        self._posted = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    @property
    def dropped(self) -> int:
        """Return how many Events could not be sent."""
        return self._dropped

    def post(self, regarding: EventSubject, reason: str, note: str, *, action: str, near: bool) -> None:
        """Have a Warning sent, without waiting; near: whether this node has a part in the Service."""
        note = _cut(note)
        namespace = regarding.namespace or "default"
        name = event_name(regarding, reason, note)
        path = PATH.format(namespace)
        now = self._clock()
        with self._lock:
            if f"{path}/{name}" in self._names:
                return
            if len(self._names) >= MOST_WAITING:
                self._dropped += 1
                return
            self._names.add(f"{path}/{name}")
            due = now if near else now + self._rng.uniform(0, FAR_WAIT)
            body = self._body(regarding, namespace, name, reason, note, action)
            heapq.heappush(self._waiting, _Letter(due, path, name, body, give_up_at=due + PATIENCE))
        self._posted.set()

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """End within a second; what waits is not sent."""
        self._stopping = True
        self._posted.set()
        self._transport.end()
        self._thread.join(_STOP_LIMIT)

    def send_due(self) -> float | None:
        """Send what is due; return how long to wait for the next, None where nothing waits."""
        while not self._stopping:
            with self._lock:
                wait = self._wait()
                if wait is None or wait > 0:
                    return wait
                letter = heapq.heappop(self._waiting)
                self._sent.append(self._clock())
            self._send(letter)
        return None

    # --- The thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            self._posted.clear()
            wait = self.send_due()
            self._posted.wait(wait)

    def _wait(self) -> float | None:
        if not self._waiting:
            return None
        due = self._waiting[0].due
        if len(self._sent) == EVENTS_A_MINUTE:
            due = max(due, self._sent[0] + 60.0)
        return max(0.0, due - self._clock())

    def _send(self, letter: _Letter) -> None:
        try:
            with self._transport.post(letter.path, letter.body, _SILENCE) as answer:
                status, retry_after = answer.status, answer.retry_after
                text = b"".join(answer.chunks())
        except SourceError:
            self._retry(letter, 0.0)
            return
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._retry(letter, retry_after)
            return
        is_there = status < HTTPStatus.MULTIPLE_CHOICES or status == HTTPStatus.CONFLICT
        self._finish(letter, is_lost=not is_there)
        # Not found is the namespace, which has gone with its Services.
        if not is_there and status not in {HTTPStatus.NOT_FOUND, *self._refusals_told}:
            self._refusals_told.add(status)
            self._warn(f"Events are refused: {status}: {_message(text)}{_MENDS.get(status, '')}")

    def _retry(self, letter: _Letter, retry_after: float) -> None:
        # Spread, because what one agent runs into, all do.
        delay = max(letter.delay * self._rng.uniform(0.5, 1.0), retry_after)
        due = self._clock() + delay
        if due > letter.give_up_at:
            self._finish(letter, is_lost=True)
            return
        again = letter._replace(due=due, delay=min(2 * letter.delay, _LAST_RETRY))
        with self._lock:
            heapq.heappush(self._waiting, again)

    def _finish(self, letter: _Letter, *, is_lost: bool) -> None:
        with self._lock:
            self._names.discard(f"{letter.path}/{letter.name}")
            self._dropped += is_lost

    def _body(
        self, regarding: EventSubject, namespace: str, name: str, reason: str, note: str, action: str
    ) -> bytes:
        seconds = self._now()
        return msgspec.json.encode(
            {
                "apiVersion": "events.k8s.io/v1",
                "kind": "Event",
                "metadata": {"namespace": namespace, "name": name},
                "eventTime": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
                + f".{int(seconds % 1 * 1_000_000):06}Z",
                "reportingController": _REPORTER,
                "reportingInstance": self._instance,
                "action": action,
                "reason": reason,
                "regarding": {
                    "apiVersion": regarding.api_version,
                    "kind": regarding.kind,
                    "namespace": regarding.namespace,
                    "name": regarding.name,
                    "uid": regarding.uid,
                },
                "note": note,
                "type": "Warning",
            }
        )


_MENDS: Mapping[int, str] = {HTTPStatus.FORBIDDEN: "; RBAC must allow: create events.events.k8s.io"}


class _Letter(NamedTuple):
    """An Event to be sent; the order is when."""

    due: float
    path: str
    name: str
    body: bytes
    give_up_at: float
    delay: float = _FIRST_RETRY


class _Status(msgspec.Struct):
    message: str = ""


def event_name(regarding: EventSubject, reason: str, note: str) -> str:
    """Return the name of an Event: the same on every node that says the same, and one that the API takes."""
    words = (regarding.kind, regarding.name, regarding.uid, reason, note)
    digest = hashlib.blake2b("\0".join(words).encode(), digest_size=16).hexdigest()
    stem = re.sub(r"[^a-z0-9]+", "-", regarding.name.lower()).strip("-")[:_LONGEST_LABEL].rstrip("-")
    return f"{stem or _REPORTER}.{digest}"


def _cut(note: str) -> str:
    """Make a note one that the API takes."""
    octets = note.encode(errors="replace")
    if len(octets) > _LONGEST_NOTE:
        octets = octets[: _LONGEST_NOTE - 3].decode(errors="ignore").encode() + b"..."
    return octets.decode()


def _message(text: bytes) -> str:
    try:
        return msgspec.json.decode(text, type=_Status).message
    except UNREADABLE:  # not the API server, but a proxy before it
        return text[:200].decode(errors="replace")
