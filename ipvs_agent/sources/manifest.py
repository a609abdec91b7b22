"""The objects in the text of one manifest: documents of JSON or YAML, and lists of objects in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

from ipvs_agent.documents import (
    JsonLines,
    MalformedError,
    check_text,
    explain,
    split_json,
)
from ipvs_agent.errors import SourceError
from ipvs_agent.model import Skipped
from ipvs_agent.sources.changes import Kind, Put, Rejected, Removed
from ipvs_agent.sources.decode import decode

if TYPE_CHECKING:
    from ipvs_agent.yaml_documents import YamlLines

API_VERSIONS: Mapping[Kind, str] = {
    Kind.SERVICE: "v1",
    Kind.ENDPOINT_SLICE: "discovery.k8s.io/v1",
    Kind.NODE: "v1",
}
"""Others have kinds of these names too, such as serving.knative.dev/v1 its Service."""

_KINDS: Mapping[str, Kind] = {kind.value: kind for kind in Kind}
_LISTS: Mapping[str, Kind] = {f"{kind.value}List": kind for kind in Kind}


class _Head(msgspec.Struct, rename="camel"):
    """What says which kind of object it is, and holds those of a list; anything may stand there."""

    api_version: object = None
    kind: object = None
    items: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def object_kind(self) -> Kind | None:
        """Return which kind it is, if one of ours."""
        return self._among(_KINDS)

    @property
    def item_kind(self) -> Kind | None:
        """Return of which kind it is the list, if one of ours; the items need not say theirs."""
        return self._among(_LISTS)

    def _among(self, kinds: Mapping[str, Kind]) -> Kind | None:
        kind = kinds.get(self.kind) if isinstance(self.kind, str) else None
        return kind if kind and self.api_version in (None, API_VERSIONS[kind]) else None


class _Part(msgspec.Struct):
    """The JSON of one object, and where in the text it came from."""

    data: bytes | msgspec.Raw
    document: int
    path: str = ""
    kind: Kind | None = None
    """None: the object says it."""


class Manifest:
    """A manifest of good syntax; raises MalformedError where it is not, and SourceError where it is empty."""

    def __init__(self, path: str, data: bytes) -> None:
        text = check_text(data)
        is_json = path.endswith(".json")
        self._path = path
        self._parts = list(_parts(_json_documents(text) if is_json else _yaml_documents(text)))
        self._lines = JsonLines(text) if is_json else _yaml_lines(text)
        self.remarks: list[str] = []
        """What `changes` met that is no object at all."""

    def changes(self) -> Iterator[Put | Removed | Rejected]:
        """Decode the objects that matter to the agent, in their order."""
        for part in self._parts:
            kind = part.kind or self._kind(part)
            if kind is not None:
                yield self._with_lines(part, decode(kind, part.data))

    def _kind(self, part: _Part) -> Kind | None:
        try:
            head = _HEADS.decode(part.data)
        except msgspec.ValidationError as error:
            self._remark(part, explain(error)[1])
            return None
        if not isinstance(head.kind, str):
            self._remark(part, "has no kind, and is passed over")
        return head.object_kind

    def _remark(self, part: _Part, reason: str) -> None:
        self.remarks.append(f"line {self._line(part, 'kind')}: {part.path or 'object'}: {reason}")

    def _with_lines(self, part: _Part, change: Put | Removed | Rejected) -> Put | Removed | Rejected:
        if isinstance(change, Rejected):
            return msgspec.structs.replace(change, skipped=self._with_line(part, change.skipped))
        if isinstance(change, Put) and change.object.skipped:
            skipped = tuple(self._with_line(part, one) for one in change.object.skipped)
            return msgspec.structs.replace(
                change, object=msgspec.structs.replace(change.object, skipped=skipped)
            )
        return change

    def _with_line(self, part: _Part, skipped: Skipped) -> Skipped:
        reason = f"{skipped.reason}, at {self._path} line {self._line(part, skipped.field)}"
        return msgspec.structs.replace(skipped, reason=reason)

    def _line(self, part: _Part, field: str) -> int:
        if isinstance(self._lines, JsonLines):
            return self._lines.line(bytes(part.data), field)
        return self._lines.line(part.document, f"{part.path}.{field}")


_HEADS = msgspec.json.Decoder(_Head)
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw] | None)


def _parts(documents: Iterable[tuple[int, bytes]]) -> Iterator[_Part]:
    is_empty = True
    for number, (line, data) in enumerate(documents):
        if data == b"null":
            continue  # nothing between two markers of YAML
        is_empty = False
        try:
            head = _HEADS.decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            raise MalformedError(line, explain(error)[1]) from None
        if head.kind != "List" and head.item_kind is None:
            yield _Part(data, number)
            continue
        try:
            items = _ITEMS.decode(head.items)
        except msgspec.ValidationError as error:
            raise MalformedError(line, f"items: {explain(error)[1]}") from None
        for index, item in enumerate(items or ()):
            yield _Part(item, number, f"items[{index}]", head.item_kind)
    if is_empty:
        # `kubectl get ... >FILE` leaves a file empty for as long as the server takes to answer.
        raise SourceError("is empty; remove the file if it has nothing to say")


def _json_documents(text: bytes) -> Iterator[tuple[int, bytes]]:
    try:
        _HEADS.decode(text)
    except (msgspec.DecodeError, RecursionError):
        # Several documents, or a fault, of which the slower reader knows the line.
        yield from split_json(text)
    else:
        yield 1, text


def _yaml_documents(text: bytes) -> Iterator[tuple[int, bytes]]:
    from ipvs_agent import yaml_documents  # noqa: PLC0415 - see there

    for line, value in yaml_documents.read_yaml(text):
        try:
            yield line, msgspec.json.encode(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise MalformedError(line, f"cannot be written as JSON: {error}") from None


def _yaml_lines(text: bytes) -> YamlLines:
    from ipvs_agent import yaml_documents  # noqa: PLC0415 - see there

    return yaml_documents.YamlLines(text)
