"""How the objects of one kind are read from the API server, and kept up to date.

    nothing known ──list──> listed at a resource version ──watch──> ... ──connection ends──> watch from there
          ^                                                                                        │
          └──────────────────────── the server no longer has that version (410) ───────────────────┘

A list is, in this order: a stream of initial events (WatchList); where the server has none, or none is
wanted, a LIST from its watch cache, compressed; and where neither can be had at the version already seen, a
consistent read in pages. The first two cost the server no read of its database, which is what thousands of
agents must not ask for at once after it was restarted.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Protocol

import msgspec
import tenacity

from ipvs_agent.errors import SourceError
from ipvs_agent.model import ObjectName
from ipvs_agent.sources import answers, framing
from ipvs_agent.sources.api_client import ANSWER_TIMEOUT, Response, Silence
from ipvs_agent.sources.changes import Change, Kind, Listed, Put, Rejected, Removed, Sink, Trouble
from ipvs_agent.sources.decode import decode

WATCH_SILENCE = 150.0
"""Seconds after which a watch is opened anew; the server says something (a bookmark) about once a minute."""

_BATCH = 500
"""Changes of a list that are handed over at once."""
_PAGE = 500
_PUNCTUAL = 1.0
"""Seconds by which a watch may end early and still have ended as asked."""
_PATIENCE = 3
"""How often a server may answer that it has not yet caught up with what was seen before."""
_BACKOFF = tenacity.wait_random_exponential(multiplier=1, max=30)
_INITIAL_EVENTS_END = "k8s.io/initial-events-end"

Query = dict[str, str]
ObjectChange = Put | Removed | Rejected


class Resource(msgspec.Struct, frozen=True):
    """A kind of objects, where the API has them, and which of them are asked for."""

    kind: Kind
    path: str
    title: str
    """As RBAC names it: the plural, and the API group where it has one."""
    label_selector: str = ""
    field_selector: str = ""
    optional_field_selector: str = ""
    """Asked for where the server knows it."""


class Client(Protocol):
    """What is asked of ApiClient."""

    @property
    def server(self) -> str:
        """Return the server's URL."""

    def get(
        self, path: str, query: Mapping[str, str], silence: float
    ) -> contextlib.AbstractContextManager[Response]:
        """Send a request."""


class Watcher:
    """Reads one resource until the event is set; the event is also what it waits on between attempts.

    is_streamed: whether lists are streams of initial events, where the server has those.
    """

    def __init__(
        self,
        resource: Resource,
        client: Client,
        sink: Sink,
        stopping: threading.Event,
        silence: float = WATCH_SILENCE,
        clock: Callable[[], float] = time.monotonic,
        *,
        is_streamed: bool = True,
    ) -> None:
        self._resource = resource
        self._client = client
        self._sink = sink
        self._stopping = stopping
        self._silence = silence
        self._clock = clock
        self._is_streamed = is_streamed
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(SourceError),
            wait=self._wait,
            stop=tenacity.stop_when_event_set(stopping),
            sleep=tenacity.sleep_using_event(stopping),
            before_sleep=self._report,
            retry_error_callback=lambda _: None,
        )
        self._optional_selector = resource.optional_field_selector
        self._trouble: SourceError | None = None
        self._progressed = False
        self._seen = ""
        """The newest resource version seen; the next list is to be as new."""
        self._resume = ""
        """The resource version to watch from; empty: list first."""
        self._refusals = 0
        """How often in a row the server could not list what is as new as we have seen."""

    def run(self) -> None:
        """Read until the event is set."""
        while not self._stopping.is_set():
            self._retrying(self._round)

    # --- One round: until the server ends the stream, or an error ------------------------------------------

    def _round(self) -> None:
        listed = ""
        with contextlib.ExitStack() as stack:
            try:
                events = None
                if not self._resume:
                    events = self._list(stack)
                    listed = self._resume
                self._follow(events or self._watch(stack), heard=bool(listed))
            except answers.Expired as error:
                is_of_no_use = self._resume == listed
                self._resume = ""
                if is_of_no_use:  # it must not be tried again at once, and again
                    self._progressed = False
                    raise _ExpiredAtOnce(f"what was just listed cannot be watched: {error}") from error
                # The server is there again, and the agents' attempts were spread already until they met it.
                self._progressed = True
                raise
            except _SelectorUnknown:
                self._optional_selector = ""

    def _watch(self, stack: contextlib.ExitStack) -> Iterator[answers.Event]:
        events = self._open_watch({"resourceVersion": self._resume}, stack)
        if not isinstance(self._trouble, (answers.Nonsense, Silence, _ExpiredAtOnce)):
            self._clear_trouble()  # what was in the way of an answer is over; there may be no event for long
        return events

    def _list(self, stack: contextlib.ExitStack) -> Iterator[answers.Event] | None:
        """Hand over all objects; return the events that follow on the same stream, if there is one."""
        try:
            if self._is_streamed:
                with contextlib.suppress(answers.NotOffered):
                    return self._watch_list(stack)
                stack.close()
            self._read_list()
            return None
        except (answers.Expired, answers.NotYet) as error:
            self._refusals += 1
            raise answers.NotYet(
                f"the server cannot list what it said before (resource version {self._seen}): {error}",
                error.retry_after,
            ) from error

    def _watch_list(self, stack: contextlib.ExitStack) -> Iterator[answers.Event]:
        query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        if self._seen and self._refusals < _PATIENCE:
            query["resourceVersion"] = self._seen
        listing = _Listing(self._resource.kind, self._sink)
        events = self._open_watch(query, stack)
        with contextlib.suppress(Silence, answers.EndedEarly):
            for event in events:
                if event.type is not answers.EventType.BOOKMARK:
                    listing.add(self._change(event))
                    continue
                meta = answers.metadata(event)
                if meta.annotations.get(_INITIAL_EVENTS_END) != "true":
                    break  # a bookmark of another kind: this server ignores what it does not know
                self._listed(listing, meta.resource_version)
                return events
        raise answers.NotOffered("the server does not tell where its initial events end")

    def _read_list(self) -> None:
        query = {"resourceVersion": self._seen or "0", "resourceVersionMatch": "NotOlderThan"}
        if self._refusals >= _PATIENCE:
            query = {"limit": str(_PAGE)}
        listing = _Listing(self._resource.kind, self._sink)
        meta = self._read_page(query, listing)
        while meta.continue_:
            meta = self._read_page({"limit": str(_PAGE), "continue": meta.continue_}, listing)
        self._listed(listing, meta.resource_version)

    def _read_page(self, query: Query, listing: _Listing) -> framing.ListMeta:
        reader = framing.ListReader()
        with self._open("list", query, ANSWER_TIMEOUT) as response:
            for chunk in response.chunks():
                for item in reader.feed(chunk):
                    listing.add(decode(self._resource.kind, item))
        items, meta = reader.close()
        for item in items:
            listing.add(decode(self._resource.kind, item))
        return meta

    def _listed(self, listing: _Listing, resource_version: str) -> None:
        self._resume = self._seen = resource_version
        self._refusals = 0
        self._progressed = True
        if not isinstance(self._trouble, _ExpiredAtOnce):
            self._clear_trouble()
        listing.close()

    def _follow(self, events: Iterable[answers.Event], *, heard: bool) -> None:
        """Hand over events until the stream ends; one that ended without a word is an error."""
        try:
            for event in events:
                meta = answers.metadata(event)
                if event.type is not answers.EventType.BOOKMARK:
                    self._sink([self._change(event)])
                self._resume = self._seen = meta.resource_version
                self._succeed()
                heard = True
        except Silence:
            if not heard:
                raise
        except answers.EndedEarly:
            if heard:
                raise
        if not heard:
            raise answers.Nonsense("the server ended the watch without a word")

    # --- Requests and answers ------------------------------------------------------------------------------

    def _open_watch(self, query: Query, stack: contextlib.ExitStack) -> Iterator[answers.Event]:
        # Between 5 and 10 minutes, as client-go asks: the watches of a cluster do not all end at once.
        timeout = random.randint(300, 600)  # noqa: S311 - not a secret
        query |= {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(timeout)}
        due = self._clock() + timeout - _PUNCTUAL
        response = stack.enter_context(self._open("watch", query, self._silence))
        return self._until(due, answers.events(response, self._asked("watch")))

    def _until(self, due: float, events: Iterator[answers.Event]) -> Iterator[answers.Event]:
        """Yield events; EndedEarly if they end before they are due to.

        That is an error because errors are followed by a random pause: when a server ends, the watches of all
        nodes do at the same moment, and they are not to come to the next one in the same moment too.
        """
        yield from events
        if self._clock() < due:
            raise answers.EndedEarly("the server ended the watch before its time")

    @contextlib.contextmanager
    def _open(self, verb: str, query: Query, silence: float) -> Iterator[Response]:
        fields = [self._resource.field_selector, self._optional_selector]
        selectors = {
            "labelSelector": self._resource.label_selector,
            "fieldSelector": ",".join(field for field in fields if field),
        }
        query |= {name: value for name, value in selectors.items() if value}
        with self._client.get(self._resource.path, query, silence) as response:
            if response.status != HTTPStatus.OK:
                refusal = answers.refusal(response, self._asked(verb))
                if isinstance(refusal, answers.BadRequest) and self._optional_selector:
                    raise _SelectorUnknown from refusal
                raise refusal
            yield response

    def _asked(self, verb: str) -> str:
        return f"{verb} {self._resource.title}"

    def _change(self, event: answers.Event) -> ObjectChange:
        change = decode(self._resource.kind, event.object)
        if event.type is answers.EventType.DELETED and change.name is not None:
            return Removed(self._resource.kind, change.name)
        return change

    # --- Success and failure -------------------------------------------------------------------------------

    def _succeed(self) -> None:
        self._progressed = True
        self._clear_trouble()

    def _clear_trouble(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            self._sink([Trouble(self._source, "")])

    def _wait(self, state: tenacity.RetryCallState) -> float:
        if self._progressed:
            self._progressed = False
            state.attempt_number = 1
        error = _failure(state)
        return max(_BACKOFF(state), error.retry_after if isinstance(error, answers.Refused) else 0.0)

    def _report(self, state: tenacity.RetryCallState) -> None:
        error = _failure(state)
        is_routine = isinstance(error, (answers.Expired, answers.EndedEarly))
        if not is_routine and str(error) != str(self._trouble):
            self._sink([Trouble(self._source, str(error))])
            self._trouble = error

    @property
    def _source(self) -> str:
        return f"{self._client.server}{self._resource.path}"


class _Listing:
    """What a list has said so far; handed over in batches."""

    def __init__(self, kind: Kind, sink: Sink) -> None:
        self._kind = kind
        self._sink = sink
        self._names: set[ObjectName] = set()
        self._batch: list[Change] = []

    def add(self, change: ObjectChange) -> None:
        if isinstance(change, Put):
            self._names.add(change.name)
        elif change.name is not None:
            self._names.discard(change.name)
        self._batch.append(change)
        if len(self._batch) >= _BATCH:
            self._sink(self._batch)
            self._batch = []

    def close(self) -> None:
        self._sink([*self._batch, Listed(self._kind, frozenset(self._names))])


class _ExpiredAtOnce(SourceError):
    """The server no longer has what was listed a moment ago, perhaps by another that lags behind it."""


class _SelectorUnknown(SourceError):
    """The server may not know the optional field selector."""


def _failure(state: tenacity.RetryCallState) -> SourceError:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert isinstance(error, SourceError)
    return error
