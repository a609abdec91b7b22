"""Lines and items out of answers that arrive in pieces of any size."""

from __future__ import annotations

import json

import msgspec
import pytest

from ipvs_agent.errors import SourceError
from ipvs_agent.sources import framing

ITEMS = [
    {"metadata": {"name": "plain"}, "spec": {"ports": [{"port": 80}, {"port": 81}]}},
    {"metadata": {"name": "quoted", "annotations": {"a": '},{"metadata":{"name":"x"}'}}},
    {"metadata": {"name": "nested"}, "list": [{"metadata": 1}, {"metadata": {}}]},
    {"metadata": {"name": "snöwman ☃"}},
]
COMPACT = (",", ":")


def text(items, separators=COMPACT):
    meta = {"resourceVersion": "7", "continue": "more"}
    return json.dumps({"kind": "List", "metadata": meta, "items": items}, separators=separators).encode()


def read(data, size):
    reader = framing.ListReader()
    early = [item for at in range(0, len(data), size) for item in reader.feed(data[at : at + size])]
    late, meta = reader.close()
    return [msgspec.json.decode(item) for item in [*early, *late]], len(early), meta


@pytest.mark.parametrize("size", [1, 2, 7, 50, 10_000])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(text(ITEMS), ITEMS, id="compact, as the API server writes"),
        pytest.param(text(ITEMS, (", ", ": ")), ITEMS, id="with blanks"),
        pytest.param(text(ITEMS) + b"\n", ITEMS, id="with a line's end behind"),
        pytest.param(text([]), [], id="empty"),
        pytest.param(text(None), [], id="null"),
        pytest.param(
            b'{"items":[{"metadata":{}},{"metadata":{}}],"metadata":{"resourceVersion":"7","continue":"more"}}',
            [{"metadata": {}}] * 2,
            id="metadata behind the items",
        ),
    ],
)
def test_a_list_has_its_items_in_order_whatever_the_pieces(data, expected, size):
    items, _, meta = read(data, size)

    assert (expected, framing.ListMeta("7", "more")) == (items, meta)


def test_items_come_while_the_rest_is_still_arriving():
    _, early, _ = read(text(ITEMS), 50)

    assert len(ITEMS) - 1 == early


@pytest.mark.parametrize("length", [0, 10, len(text(ITEMS)) // 2, len(text(ITEMS)) - 1])
def test_a_list_that_is_cut_short_is_an_error(length):
    with pytest.raises(SourceError, match="not a list of objects"):
        read(text(ITEMS)[:length], 50)


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        pytest.param([b"a\nb\n"], [b"a", b"b"], id="two in one piece"),
        pytest.param([b"a", b"b\nc", b"\n"], [b"ab", b"c"], id="one over two pieces"),
        pytest.param([b"\n\na\n"], [b"a"], id="empty lines are none"),
        pytest.param([b"a\nb"], [b"a"], id="one without an end is none"),
    ],
)
def test_lines(chunks, expected):
    assert expected == list(framing.lines(chunks))
