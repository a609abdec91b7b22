"""What the API server says, apart from the objects themselves: events of a watch, and why not."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from http import HTTPStatus

import msgspec

from ipvs_agent.documents import UNREADABLE
from ipvs_agent.errors import SourceError
from ipvs_agent.sources import framing
from ipvs_agent.sources.api_client import Response

_LONGEST_RETRY_AFTER = 60.0


# --- Errors -------------------------------------------------------------------------------------------------


class Nonsense(SourceError):
    """The server answers with what cannot be understood."""


class EndedEarly(SourceError):
    """The server ended a watch before the time that was asked for, as it does when it ends itself."""


class Refused(SourceError):
    """The server answers, but not with what was asked for.

    retry_after: how many seconds it asks to be left alone.
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Expired(Refused):
    """The server no longer has what happened since a resource version."""


class NotYet(Refused):
    """The server does not yet have a resource version."""


class NotOffered(Refused):
    """The server cannot do what was asked."""


class BadRequest(NotOffered):
    """The server does not understand what was asked."""


_REFUSALS: Mapping[int, type[Refused]] = {
    HTTPStatus.GONE: Expired,
    HTTPStatus.BAD_REQUEST: BadRequest,
    HTTPStatus.UNPROCESSABLE_ENTITY: NotOffered,
    # What the server says of WatchList where its etcd is too old for it (RequestWatchProgress), as an event.
    HTTPStatus.INTERNAL_SERVER_ERROR: NotOffered,
}


# --- Values -------------------------------------------------------------------------------------------------


class EventType(enum.Enum):
    """The types of watch events."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"
    ERROR = "ERROR"


class Event(msgspec.Struct, frozen=True):
    """An event of a watch, whose object is not yet read."""

    type: EventType
    object: msgspec.Raw


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    """What a watch needs of an object's metadata."""

    resource_version: framing.ResourceVersion
    annotations: dict[str, str] = {}


class _Object(msgspec.Struct):
    metadata: Meta


class _Cause(msgspec.Struct):
    reason: str = ""


class _Details(msgspec.Struct, rename="camel"):
    causes: list[_Cause] = []
    retry_after_seconds: int = 0


class _Status(msgspec.Struct):
    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details = msgspec.field(default_factory=_Details)


_decode_event = msgspec.json.Decoder(Event).decode
_decode_object = msgspec.json.Decoder(_Object).decode
_decode_status = msgspec.json.Decoder(_Status).decode


# --- Reading ------------------------------------------------------------------------------------------------


def events(response: Response, asked: str) -> Iterator[Event]:
    """Yield the events of a watch; one of type ERROR is raised. asked: verb and resource."""
    for line in framing.lines(response.chunks()):
        try:
            event = _decode_event(line)
            status = _decode_status(event.object) if event.type is EventType.ERROR else None
        except UNREADABLE as error:
            raise Nonsense(f"the watch says what is no event: {error}") from error
        if status is not None:
            raise _refused(status, asked, 0.0)
        yield event


def metadata(event: Event) -> Meta:
    """Read the metadata of an event's object."""
    try:
        return _decode_object(event.object).metadata
    except UNREADABLE as error:
        raise Nonsense(f"the watch says what is no object: {error}") from error


def refusal(response: Response, asked: str) -> Refused:
    """Read an answer that is not a success. asked: verb and resource."""
    text = b"".join(response.chunks())
    try:
        status = _decode_status(text)
    except UNREADABLE:  # not the API server, but a proxy before it
        status = _Status(message=text[:200].decode(errors="replace"))
    status.code = response.status
    return _refused(status, asked, response.retry_after)


def _refused(status: _Status, asked: str, retry_after: float) -> Refused:
    message = f"{status.code} {status.reason or 'answer'}: {status.message}"
    if status.code == HTTPStatus.UNAUTHORIZED:
        message += "; the credentials are not accepted"
    if status.code == HTTPStatus.FORBIDDEN:
        message += f"; RBAC must allow: {asked}"
    is_too_new = any(cause.reason == "ResourceVersionTooLarge" for cause in status.details.causes)
    refused = NotYet if is_too_new else _REFUSALS.get(status.code, Refused)
    return refused(message, min(max(retry_after, status.details.retry_after_seconds), _LONGEST_RETRY_AFTER))
