"""Events to the API server, with a transport and a clock of the tests."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import random
import threading
import time

import pytest

from ipvs_agent.errors import SourceError
from ipvs_agent.serve import events
from ipvs_agent.serve.events import EventSubject, NullRecorder, Recorder, event_name
from ipvs_agent.sources import checks
from ipvs_agent.sources.api_client import ApiClient

WEB = EventSubject("Service", "default", "web", "1234")
PATH = "/apis/events.k8s.io/v1/namespaces/default/events"
PATIENCE = 10.0


class Answer:
    def __init__(self, status, retry_after=0.0, text=b"{}"):
        self.status = status
        self.retry_after = retry_after
        self._text = text

    def chunks(self):
        yield self._text


class Bench:
    """A recorder whose time stands still, and a transport that answers as told, else that all is well."""

    def __init__(self, *answers, node="node-a", seed=7):
        self.time = 5000.0
        self.sent = []
        self.times = []
        self.answers = list(answers)
        self.warnings = []
        self.is_ended = False
        self.recorder = Recorder(
            self,
            node,
            self.warnings.append,
            clock=lambda: self.time,
            now=lambda: 1767323045.25,
            rng=random.Random(seed),
        )

    @contextlib.contextmanager
    def post(self, path, body, silence):
        self.sent.append((path, json.loads(body)))
        self.times.append(self.time)
        answer = self.answers.pop(0) if self.answers else Answer(201)
        if isinstance(answer, Exception):
            raise answer
        yield answer

    def end(self):
        self.is_ended = True

    def say(self, note="a note", reason="AddressTaken", subject=WEB, near=True):
        self.recorder.post(subject, reason, note, action="Serve", near=near)

    def pass_time(self, seconds):
        """Let the thread's work be done until then; return when it sent something."""
        start, end = self.time, self.time + seconds
        before = len(self.times)
        while (wait := self.recorder.send_due()) is not None and self.time + wait <= end:
            self.time += wait
        self.time = end
        return [at - start for at in self.times[before:]]

    @property
    def notes(self):
        return [body["note"] for _, body in self.sent]


class TestEvent:
    def test_the_whole_object(self):
        bench = Bench()
        bench.say()
        bench.pass_time(0)

        assert [
            (
                PATH,
                {
                    "apiVersion": "events.k8s.io/v1",
                    "kind": "Event",
                    "metadata": {
                        "namespace": "default",
                        "name": event_name(WEB, "AddressTaken", "a note"),
                    },
                    "eventTime": "2026-01-02T03:04:05.250000Z",
                    "reportingController": "ipvs-agent",
                    "reportingInstance": "ipvs-agent-node-a",
                    "action": "Serve",
                    "reason": "AddressTaken",
                    "regarding": {
                        "apiVersion": "v1",
                        "kind": "Service",
                        "namespace": "default",
                        "name": "web",
                        "uid": "1234",
                    },
                    "note": "a note",
                    "type": "Warning",
                },
            )
        ] == bench.sent

    def test_every_agent_gives_it_the_same_name(self):
        a, b = Bench(node="node-a"), Bench(node="node-b", seed=8)
        for bench in (a, b):
            bench.say()
            bench.pass_time(0)

        assert a.sent[0][1]["metadata"] == b.sent[0][1]["metadata"]
        assert a.sent[0][1]["metadata"]["name"].startswith("web.")

    @pytest.mark.parametrize(
        ("subject", "reason", "note"),
        [
            pytest.param(EventSubject("Service", "default", "web", "5678"), "R", "n", id="uid"),
            pytest.param(WEB, "S", "n", id="reason"),
            pytest.param(WEB, "R", "m", id="note"),
        ],
    )
    def test_what_differs_has_another_name(self, subject, reason, note):
        assert event_name(WEB, "R", "n") != event_name(subject, reason, note)

    @pytest.mark.parametrize(
        "name",
        ["web", "w" * 63, "w" * 62 + "-x", "a.b", "A..B", "", "$(reboot)", "x" * 10000, "é", "-", "\0"],
    )
    def test_its_name_is_one_of_the_api_whatever_the_service(self, name):
        got = event_name(EventSubject("Service", "default", name, ""), "R", "n")

        assert checks.is_subdomain(got)
        assert all(checks.is_label(label) for label in got.split("."))

    def test_an_object_without_a_namespace_has_its_events_in_default(self):
        bench = Bench()
        bench.say(subject=EventSubject("Node", "", "node-a", "1"))
        bench.pass_time(0)

        path, body = bench.sent[0]
        assert (PATH, "default", "") == (
            path,
            body["metadata"]["namespace"],
            body["regarding"]["namespace"],
        )

    @pytest.mark.parametrize(
        ("note", "expected"),
        [
            pytest.param("x" * 1024, "x" * 1024, id="the longest"),
            pytest.param("x" * 1025, "x" * 1021 + "...", id="too long"),
            pytest.param("é" * 600, "é" * 510 + "...", id="too long in octets"),
            pytest.param("\ud800", "?", id="no text"),
        ],
    )
    def test_a_note_is_cut_to_what_the_api_takes(self, note, expected):
        bench = Bench()
        bench.say(note)
        bench.pass_time(0)

        assert [expected] == bench.notes

    def test_a_long_node_name_is_cut(self):
        bench = Bench(node="n" * 253)
        bench.say()
        bench.pass_time(0)

        assert 128 == len(bench.sent[0][1]["reportingInstance"])


class TestWhen:
    def test_an_agent_near_the_service_sends_at_once(self):
        bench = Bench()
        bench.say()

        assert [0] == bench.pass_time(0)

    def test_agents_far_from_it_wait_up_to_a_minute_each_for_itself(self):
        waits = []
        for seed in range(200):
            bench = Bench(seed=seed)
            bench.say(near=False)
            waits += bench.pass_time(60)

        assert 200 == len(waits)
        assert 0 < min(waits) < 3
        assert 57 < max(waits) <= 60
        assert 25 < sum(waits) / 200 < 35

    def test_the_near_overtake_the_far(self):
        bench = Bench()
        bench.say("far", near=False)
        bench.say("near")
        bench.pass_time(60)

        assert ["near", "far"] == bench.notes

    def test_what_waits_already_is_not_sent_twice(self):
        bench = Bench()
        for _ in range(3):
            bench.say(near=False)
        bench.pass_time(60)
        assert 1 == len(bench.sent)

        bench.say()
        bench.pass_time(0)
        assert 2 == len(bench.sent)

    def test_no_more_than_sixty_in_any_minute(self):
        bench = Bench()
        for number in range(150):
            bench.say(f"note {number}")

        times = bench.pass_time(600)

        assert 150 == len(times)
        assert [0] * 60 + [60] * 60 + [120] * 30 == times
        assert 0 == bench.recorder.dropped

    def test_repeated_requests_count_as_well(self):
        bench = Bench(*[Answer(500)] * 1000)
        for number in range(60):
            bench.say(f"note {number}")

        times = bench.pass_time(300)

        assert times
        assert all(sum(start <= at < start + 60 for at in times) <= 60 for start in times)

    def test_what_does_not_fit_into_the_queue_is_counted(self, monkeypatch):
        monkeypatch.setattr(events, "MOST_WAITING", 3)
        bench = Bench()
        for number in range(5):
            bench.say(f"note {number}", near=number == 0)
        bench.pass_time(60)

        assert (3, 2) == (len(bench.sent), bench.recorder.dropped)
        bench.say("later")
        bench.pass_time(0)
        assert "later" == bench.notes[-1]


class TestAnswers:
    @pytest.mark.parametrize("status", [200, 201, 409])
    def test_made_or_there_is_success(self, status):
        bench = Bench(Answer(status))
        bench.say()
        bench.pass_time(3600)

        assert (1, 0, []) == (len(bench.sent), bench.recorder.dropped, bench.warnings)

    @pytest.mark.parametrize(
        "trouble", [Answer(500), Answer(503), Answer(429), SourceError("refused")], ids=str
    )
    def test_trouble_is_tried_again_ever_more_slowly(self, trouble):
        bench = Bench(*[trouble] * 3)
        bench.say()

        times = bench.pass_time(3600)

        assert 4 == len(times)
        waits = [after - before for before, after in itertools.pairwise(times)]
        assert all(base / 2 <= wait <= base for base, wait in zip((1, 2, 4), waits, strict=True))
        assert (0, []) == (bench.recorder.dropped, bench.warnings)

    def test_the_server_may_ask_for_a_longer_wait(self):
        bench = Bench(Answer(429, retry_after=17.0))
        bench.say()

        assert [0, 17] == bench.pass_time(60)

    def test_in_the_end_it_is_given_up(self):
        bench = Bench(*[SourceError("refused")] * 1000)
        bench.say()

        times = bench.pass_time(3600)

        assert 500 < times[-1] <= 600
        assert 10 < len(times) < 40
        assert 1 == bench.recorder.dropped
        assert bench.recorder.send_due() is None

    def test_a_refusal_is_told_once_and_not_tried_again(self):
        text = json.dumps({"kind": "Status", "message": "events is forbidden"}).encode()
        bench = Bench(*[Answer(403, text=text)] * 3)
        for number in range(3):
            bench.say(f"note {number}")
        bench.pass_time(3600)

        assert [
            "Events are refused: 403: events is forbidden; RBAC must allow: create events.events.k8s.io"
        ] == bench.warnings
        assert (3, 3) == (len(bench.sent), bench.recorder.dropped)

    def test_a_refusal_that_is_not_utf_8_is_told_as_far_as_it_can_be_read(self):
        bench = Bench(Answer(413, text=b'{"message": "caf\xe9"}'))
        bench.say()
        bench.pass_time(0)

        assert ['Events are refused: 413: {"message": "caf\ufffd"}'] == bench.warnings

    def test_a_refusal_by_something_else_is_told_in_its_words(self):
        bench = Bench(Answer(413, text=b"<html>too large\xff" + b"x" * 1000))
        bench.say()
        bench.pass_time(0)

        assert bench.warnings[0].startswith("Events are refused: 413: <html>too large\ufffdxxx")
        assert 250 > len(bench.warnings[0])

    def test_a_namespace_that_has_gone_is_nobodys_concern(self):
        bench = Bench(Answer(404))
        bench.say()
        bench.pass_time(3600)

        assert ([], 1) == (bench.warnings, len(bench.sent))


class TestThread:
    def test_it_sends_what_is_posted_and_ends(self):
        arrived = threading.Event()
        bench = Bench()
        recorder = Recorder(bench, "node-a", bench.warnings.append)
        recorder.start()
        try:
            recorder.post(WEB, "R", "first", action="Serve", near=True)
            deadline = time.monotonic() + PATIENCE
            while bench.notes != ["first"] and time.monotonic() < deadline:
                arrived.wait(0.002)
            recorder.post(WEB, "R", "second", action="Serve", near=True)
            while bench.notes != ["first", "second"] and time.monotonic() < deadline:
                arrived.wait(0.002)
        finally:
            recorder.stop()

        assert ["first", "second"] == bench.notes
        assert bench.is_ended
        assert not recorder._thread.is_alive()

    def test_a_server_that_hangs_holds_neither_the_agent_nor_the_end(self):
        released = threading.Event()

        class Hanging(Bench):
            @contextlib.contextmanager
            def post(self, path, body, silence):
                self.sent.append((path, json.loads(body)))
                released.wait(PATIENCE)
                raise SourceError("cut")
                yield

            def end(self):
                released.set()

        bench = Hanging()
        recorder = Recorder(bench, "node-a", bench.warnings.append)
        recorder.start()
        for number in range(2000):
            recorder.post(WEB, "R", f"note {number}", action="Serve", near=True)
        assert not released.is_set()
        assert 2000 - events.MOST_WAITING == recorder.dropped
        recorder.stop()

        assert not recorder._thread.is_alive()

    def test_the_null_recorder_takes_the_same(self):
        assert NullRecorder().post(WEB, "R", "n", action="Serve", near=True) is None


class TestOverHttp:
    """The API client is a transport."""

    @pytest.mark.parametrize(("status", "warnings"), [(201, 0), (409, 0), (403, 1)])
    def test_events_arrive(self, tmp_path, status, warnings):
        requests = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                requests.append((self.path, self.headers["Content-Type"], body["note"]))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_):
                pass

        told = []
        with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
            path = tmp_path / "kubeconfig"
            path.write_text(json.dumps(kubeconfig(f"http://127.0.0.1:{server.server_port}")))
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            recorder = Recorder(ApiClient(str(path)), "node-a", told.append)
            recorder.post(WEB, "R", "n", action="Serve", near=True)
            wait = recorder.send_due()
            thread.join(PATIENCE)

        assert [(PATH, "application/json", "n")] == requests
        assert (None, warnings) == (wait, len(told))


def kubeconfig(url):
    return {
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {"token": "secret"}}],
    }
