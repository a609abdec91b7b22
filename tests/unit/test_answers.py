"""Answers of the API server, or of what stands before it, that cannot be read as they should be."""

from __future__ import annotations

import msgspec
import pytest

from ipvs_agent.errors import SourceError
from ipvs_agent.sources import answers, framing

DEEP = 3000 * b"[" + 3000 * b"]"
LATIN_1 = b'"caf\xe9"'


class Response:
    def __init__(self, body):
        self.status, self.retry_after = 502, 0.0
        self.body = body

    def chunks(self):
        yield self.body


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b'{"message": "no etcd"}', "no etcd", id="a Status"),
        pytest.param(b"<html>Bad Gateway", "<html>Bad Gateway", id="a page"),
        pytest.param(
            b'{"message": ' + LATIN_1 + b"}", '{"message": "caf\N{REPLACEMENT CHARACTER}"}', id="Latin-1"
        ),
        pytest.param(b'{"details": ' + DEEP + b"}", ('{"details": ' + 3000 * "[")[:200], id="nested deeply"),
    ],
)
def test_a_refusal_is_told_as_far_as_it_can_be_read(body, message):
    assert f"502 answer: {message}" == str(answers.refusal(Response(body), "watch services"))


@pytest.mark.parametrize("part", [LATIN_1, DEEP], ids=["Latin-1", "nested deeply"])
class TestWhatCannotBeRead:
    def test_an_event(self, part):
        body = b'{"type": "ADDED", "object": {"metadata": ' + part + b"}}\n"
        with pytest.raises(answers.Nonsense):
            [answers.metadata(event) for event in answers.events(Response(body), "watch services")]

    def test_an_object(self, part):
        with pytest.raises(answers.Nonsense):
            answers.metadata(
                answers.Event(answers.EventType.ADDED, msgspec.Raw(b'{"metadata": ' + part + b"}"))
            )

    def test_a_list(self, part):
        item = b'{"metadata":{"name":"a"},"spec":' + part + b"}"
        reader = framing.ListReader()
        reader.feed(b'{"items":[' + item + b"," + item + b"],")
        reader.feed(b'"metadata":{"resourceVersion":' + part + b"}}")
        with pytest.raises(SourceError, match="not a list of objects"):
            reader.close()
