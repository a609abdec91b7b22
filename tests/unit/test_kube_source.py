"""What KubeSource asks of an API server, and what it makes of the answers."""

from __future__ import annotations

import argparse
import socket
import threading
import time

import pytest
from kubernetes.config import incluster_config

from ipvs_agent.cli import wiring
from ipvs_agent.config import AgentConfig, Lists
from ipvs_agent.errors import ConfigError
from ipvs_agent.model import ObjectName
from ipvs_agent.sources.api_client import ApiClient
from ipvs_agent.sources.changes import Kind, Listed, Put, Rejected, Removed, Trouble
from ipvs_agent.sources.kube import KubeSource
from ipvs_agent.testing.fake_api import ENDPOINT_SLICES, NODES, SERVICES, FakeApi, WatchList
from ipvs_agent.testing.fake_http import Drop, Hang, Refuse, Say

OURS = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless"
SELECTORS = {"labelSelector": OURS, "fieldSelector": "spec.clusterIP!=None"}
INITIAL = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
BY_LIST = [
    ("list", {"resourceVersion": "0", "resourceVersionMatch": "NotOlderThan"}),
    ("watch", {"resourceVersion": "102"}),
]
EXPIRED = (
    b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired",'
    b'"message":"too old resource version: 101 (150)"}}\n'
)
PATIENCE = 10.0


class Impatient(threading.Event):
    """A stop event that notes how long it was waited on between attempts, and does not wait."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def wait(self, timeout=None):
        self.waits.append(timeout)
        return super().wait(0.001)


class Told:
    """A sink that can be waited on."""

    def __init__(self):
        self.changes = []
        self.batches = []
        self._arrived = threading.Condition()

    def __call__(self, batch):
        with self._arrived:
            self.batches.append(len(batch))
            self.changes.extend(batch)
            self._arrived.notify_all()

    def until(self, wanted):
        """Wait for a change, and return everything up to it as short texts."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: wanted in self._said(), PATIENCE):
                raise AssertionError(f"never told {wanted!r}, but {self._said()}")
            return self._said()

    def _said(self):
        return [said(change) for change in self.changes if is_of_services(change)]


def is_of_services(change):
    if isinstance(change, Trouble):
        return change.source.endswith(SERVICES)
    return change.kind is Kind.SERVICE


def said(change):
    match change:
        case Put():
            return f"put {change.name}"
        case Removed(_, name):
            return f"removed {name}"
        case Rejected(_, name):
            return f"rejected {name}"
        case Listed(_, names):
            return "listed " + " ".join(sorted(str(name) for name in names))
        case Trouble(_, message):
            return f"trouble: {message}" if message else "no trouble"


def service(name, **metadata):
    return {
        "kind": "Service",
        "metadata": {"namespace": "default", "name": name, **metadata},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80, "protocol": "TCP"}]},
    }


def queries(api, path=SERVICES, count=1):
    """Return what was asked of a path, without what is the same in each request."""
    return [essence(request.query) for request in api.requests_for(path, count)]


def essence(query):
    rest = {name: value for name, value in query.items() if name not in SELECTORS}
    if rest.pop("watch", None):
        assert 300 <= int(rest.pop("timeoutSeconds")) <= 600
        assert rest.pop("allowWatchBookmarks") == "true"
        return "watch", rest
    return "list", rest


def without_trouble(texts):
    return [text for text in texts if "trouble" not in text]


@pytest.fixture
def run(tmp_path):
    """Start a KubeSource on a FakeApi; it is stopped at the end of the test."""
    sources = []

    def run(api, told, **options):
        stopping = Impatient()
        source = KubeSource(api.write_kubeconfig(tmp_path), "node-a", told, stopping=stopping, **options)
        sources.append(source)
        source.start()
        return stopping

    yield run
    for source in sources:
        source.stop()


@pytest.fixture
def told():
    return Told()


class TestStart:
    @pytest.mark.parametrize(
        ("path", "selectors"),
        [
            pytest.param(SERVICES, SELECTORS, id="Services"),
            pytest.param(ENDPOINT_SLICES, {"labelSelector": OURS}, id="EndpointSlices"),
            pytest.param(NODES, {"fieldSelector": "metadata.name=node-a"}, id="own Node"),
        ],
    )
    def test_a_kind_is_asked_for_with_the_selectors_of_kube_proxy(self, run, told, path, selectors):
        with FakeApi() as api:
            run(api, told)
            query = dict(api.requests_for(path, 1)[0].query)

        query.pop("timeoutSeconds")
        expected = {"watch": "true", "allowWatchBookmarks": "true", **INITIAL, **selectors}
        assert expected == query

    @pytest.mark.parametrize(
        ("options", "asked"),
        [
            pytest.param({}, [("watch", INITIAL)], id="stream of initial events"),
            pytest.param(
                {"watch_list": WatchList.FORBIDDEN},
                [("watch", INITIAL), *BY_LIST],
                id="refused: list from the watch cache",
            ),
            pytest.param(
                {"watch_list": WatchList.BROKEN},
                [("watch", INITIAL), *BY_LIST],
                id="fails: list from the watch cache",
            ),
            pytest.param(
                {"cluster_ip_selector": False},
                [("watch", INITIAL), ("watch", INITIAL)],
                id="field selector unknown: asked without",
            ),
        ],
    )
    def test_all_is_listed_and_then_watched(self, run, told, options, asked):
        with FakeApi(**options) as api:
            api.put(service("a"))
            api.put(service("b"))
            run(api, told)
            queries(api, count=len(asked))
            told.until("listed default/a default/b")
            api.put(service("c"))

            expected = ["put default/a", "put default/b", "listed default/a default/b", "put default/c"]
            assert expected == told.until("put default/c")
            assert asked == queries(api)

    def test_lists_that_are_not_to_be_streamed_come_from_the_watch_cache(self, run, told):
        with FakeApi() as api:
            api.put(service("a"))
            api.put(service("b"))
            run(api, told, is_streamed=False)
            told.until("listed default/a default/b")

            assert BY_LIST == queries(api, count=2)
            assert [2, 2] == [len(queries(api, path, 2)) for path in (ENDPOINT_SLICES, NODES)]

    @pytest.mark.parametrize(("lists", "asked"), [(Lists.STREAMED, "watch"), (Lists.COMPRESSED, "list")])
    def test_the_configuration_says_whether_they_are(self, told, tmp_path, lists, asked):
        with FakeApi() as api:
            options = argparse.Namespace(manifests=None, kubeconfig=api.write_kubeconfig(tmp_path))
            source = wiring.source(options, AgentConfig(lists=lists), "node-a", told)
            source.start()
            assert asked == queries(api, count=1)[0][0]
            source.stop()

    def test_a_server_that_never_heard_of_initial_events_shows_by_a_plain_bookmark(self, run, told):
        with FakeApi(watch_list=WatchList.UNKNOWN) as api:
            api.put(service("a"))
            run(api, told)
            api.requests_for(SERVICES, 1)
            api.bookmark(SERVICES)

            expected = [
                ("watch", INITIAL),
                ("list", {"resourceVersion": "0", "resourceVersionMatch": "NotOlderThan"}),
                ("watch", {"resourceVersion": "101"}),
            ]
            assert expected == queries(api, count=3)
            assert "listed default/a" in told.until("listed default/a")

    def test_what_the_selectors_leave_out_is_not_listed(self, run, told):
        with FakeApi() as api:
            api.put(service("proxied", labels={"service.kubernetes.io/service-proxy-name": "x"}))
            api.put(service("a"))
            run(api, told)

            assert ["put default/a", "listed default/a"] == told.until("listed default/a")

    @pytest.mark.parametrize("watch_list", [WatchList.OFFERED, WatchList.FORBIDDEN])
    def test_a_long_list_is_handed_over_in_batches(self, run, told, watch_list):
        names = [f"s{number:04}" for number in range(1200)]
        with FakeApi(watch_list=watch_list) as api:
            for name in names:
                api.put(service(name))
            run(api, told)
            told.until("listed " + " ".join(f"default/{name}" for name in names))

            assert {"gzip"} == {request.encodings for request in api.requests_for(SERVICES, 1)}
        assert max(told.batches) <= 501
        assert [ObjectName("default", name) for name in names] == [
            change.name for change in told.changes if isinstance(change, Put)
        ]

    def test_an_object_that_cannot_be_read_is_rejected_and_the_rest_listed(self, run, told):
        with FakeApi() as api:
            api.put(service("bad") | {"spec": {"clusterIP": "10.96.0.11", "ports": "none"}})
            api.put(service("good"))
            run(api, told)

            expected = ["rejected default/bad", "put default/good", "listed default/good"]
            assert expected == told.until("listed default/good")

    def test_a_kubeconfig_that_is_missing_is_a_configuration_error(self, told):
        with pytest.raises(ConfigError, match="kubeconfig /nowhere/kubeconfig: no such file"):
            KubeSource("/nowhere/kubeconfig", "node-a", told)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            pytest.param(b"", "file is empty", id="empty"),
            pytest.param(b"\xff\xfe", "codec can't decode", id="not text"),
            pytest.param(b"clusters: [", "while parsing a flow node", id="cut"),
            pytest.param(b"[1, 2]", "a value of a wrong type", id="a list"),
            pytest.param(b"only words", "a value of a wrong type", id="text"),
            pytest.param(b"clusters: 5", "a value of a wrong type", id="a section that is a number"),
            pytest.param(b"kind: Config", "Expected key current-context", id="nothing in it"),
            pytest.param(
                b"%s, user: {}}]\nclusters: [{name: x, cluster: {server: 12345}}]",
                "a value of a wrong type",
                id="a server that is a number",
            ),
            pytest.param(
                b"%s, user: {client-certificate-data: x, client-key-data: x}}]\n"
                b"clusters: [{name: x, cluster: {server: 'https://[::1]:1'}}]",
                "Incorrect padding|base64",
                id="base64",
            ),
        ],
    )
    def test_a_kubeconfig_that_makes_no_sense_is_a_configuration_error(self, told, tmp_path, content, reason):
        start = b"current-context: x\ncontexts: [{name: x, context: {cluster: x, user: x}}]\nusers: [{name: x"
        path = tmp_path / "kubeconfig"
        path.write_bytes(content.replace(b"%s", start))

        with pytest.raises(ConfigError, match=f"(?s)^kubeconfig {path}: .*({reason})"):
            KubeSource(str(path), "node-a", told)

    def test_without_kubeconfig_and_outside_a_cluster_the_error_says_what_is_needed(self, told, monkeypatch):
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        with pytest.raises(ConfigError, match="--kubeconfig FILE or --manifests PATH is needed"):
            KubeSource(None, "node-a", told)

    def test_in_a_pod_the_environment_says_where_and_the_account_who(self, monkeypatch, tmp_path):
        for name in ("SERVICE_TOKEN_FILENAME", "SERVICE_CERT_FILENAME"):
            (tmp_path / name).write_text("content")
            monkeypatch.setattr(incluster_config, name, str(tmp_path / name))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "2001:db8::1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")

        assert "https://[2001:db8::1]:6443" == ApiClient(None).server


class TestWatch:
    def test_changes_arrive_in_order(self, run, told):
        with FakeApi() as api:
            run(api, told)
            told.until("listed ")
            api.put(service("a"))
            api.put(service("a"))
            api.delete(service("a"))

            assert ["listed ", "put default/a", "put default/a", "removed default/a"] == told.until(
                "removed default/a"
            )

    @pytest.mark.parametrize("end", [FakeApi.end_watches, FakeApi.drop_watches])
    def test_a_watch_that_ends_goes_on_from_the_last_version_without_a_list(self, run, told, end):
        with FakeApi() as api:
            run(api, told)
            told.until("listed ")
            version = api.put(service("a"))
            told.until("put default/a")
            with api.at_once():
                end(api, SERVICES)
                api.put(service("b"))

            assert "put default/b" in told.until("put default/b")
            assert [("watch", INITIAL), ("watch", {"resourceVersion": str(version)})] == queries(api)

    def test_a_watch_that_ends_before_its_time_goes_on_after_a_random_moment(self, run, told):
        with FakeApi() as api:
            stopping = run(api, told)
            told.until("listed ")
            for count in range(2, 6):
                api.put(service("a"))
                api.end_watches(SERVICES)
                queries(api, count=count)

            assert 4 == len(set(stopping.waits))
            assert 0 <= min(stopping.waits) <= max(stopping.waits) <= 1
            assert [] == [text for text in told.until("listed ") if "trouble" in text]

    @pytest.mark.parametrize(("watch_list", "count"), [(WatchList.OFFERED, 1), (WatchList.FORBIDDEN, 3)])
    def test_a_watch_that_says_nothing_and_ends_is_no_trouble_right_behind_a_list(
        self, run, told, watch_list, count
    ):
        with FakeApi(watch_list=watch_list) as api:
            run(api, told)
            told.until("listed ")
            queries(api, count=count)
            api.end_watches(SERVICES)
            queries(api, count=count + 1)
            api.put(service("a"))
            assert ["listed ", "put default/a"] == told.until("put default/a")
            api.end_watches(SERVICES)
            queries(api, count=count + 2)
            api.end_watches(SERVICES)

            trouble = "trouble: the server ended the watch without a word"
            assert trouble == told.until(trouble)[-1]

    def test_a_watch_that_ends_when_it_was_asked_to_goes_on_at_once(self, run, told):
        now = 0.0
        with FakeApi() as api:
            stopping = run(api, told, clock=lambda: now)
            told.until("listed ")
            api.put(service("a"))
            told.until("put default/a")
            now = 600.0
            api.end_watches(SERVICES)

            assert 2 == len(queries(api, count=2))
            assert [] == stopping.waits

    def test_a_bookmark_moves_the_version_to_go_on_from(self, run, told):
        with FakeApi() as api:
            run(api, told)
            told.until("listed ")
            version = api.compact()
            api.bookmark(SERVICES)
            api.end_watches(SERVICES)

            assert ("watch", {"resourceVersion": str(version)}) == queries(api, count=2)[1]

    @pytest.mark.parametrize(
        ("frame", "asked"),
        [
            pytest.param(b"", [("watch", {"resourceVersion": "101"})], id="the watch is refused"),
            pytest.param(EXPIRED, [], id="the watch ends with an error"),
        ],
    )
    def test_what_expired_is_listed_anew_and_not_older_than_seen(self, run, told, frame, asked):
        with FakeApi() as api:
            api.put(service("a"))
            run(api, told)
            told.until("listed default/a")
            with api.at_once():
                api.say(SERVICES, frame)
                api.drop_watches(SERVICES)
                api.delete(service("a"))
                api.put(service("b"))
                api.compact()

            expected = [
                "put default/a",
                "listed default/a",
                "put default/b",
                "listed default/b",
            ]
            assert expected == without_trouble(told.until("listed default/b"))
            assert [("watch", INITIAL), *asked, ("watch", INITIAL | {"resourceVersion": "101"})] == queries(
                api
            )

    def test_what_expired_while_the_server_was_away_is_listed_as_soon_as_it_is_back(self, run, told):
        with FakeApi() as api:
            stopping = run(api, told)
            told.until("listed ")
            for count in (1, 2, 3):
                with api.at_once():
                    api.fail(SERVICES, *[Drop()] * 8)
                    api.drop_watches(SERVICES)
                    api.put(service(f"s{count}"))
                    api.compact()
                told.until(" ".join(["listed", *(f"default/s{number}" for number in range(1, count + 1))]))

            # The connection that breaks, the answers that fail, and what expired.
            waits = [stopping.waits[start : start + 10] for start in (0, 10, 20)]
            assert [10] * 3 == [len(wait) for wait in waits]
            assert [True] * 3 == [0 <= wait[-1] <= 1 for wait in waits]

    def test_a_list_that_expired_is_as_new_as_what_was_seen(self, run, told):
        with FakeApi(watch_list=WatchList.FORBIDDEN) as api:
            api.put(service("a"))
            run(api, told)
            queries(api, count=3)
            api.say(SERVICES, EXPIRED)

            expected = [
                ("watch", INITIAL | {"resourceVersion": "101"}),
                ("list", {"resourceVersion": "101", "resourceVersionMatch": "NotOlderThan"}),
                ("watch", {"resourceVersion": "101"}),
            ]
            assert expected == queries(api, count=6)[3:]

    def test_a_server_that_lost_what_was_seen_is_asked_thrice_and_then_for_what_it_has(self, run, told):
        with FakeApi() as api:
            api.put(service("a"))
            run(api, told)
            told.until("listed default/a")
            with api.at_once():
                api.say(SERVICES, EXPIRED)
                api.put(service("b"))
                api.go_back(50)

            as_new = ("watch", INITIAL | {"resourceVersion": "101"})
            assert [as_new, as_new, as_new, ("watch", INITIAL)] == queries(api, count=5)[1:]
            assert "listed default/a default/b" in told.until("listed default/a default/b")

            # From then on it is again to be as new as what was seen.
            api.say(SERVICES, EXPIRED)
            assert ("watch", INITIAL | {"resourceVersion": "50"}) == queries(api, count=6)[5]

    def test_what_is_listed_but_cannot_be_watched_is_not_listed_again_and_again(self, run, told):
        with FakeApi(watch_list=WatchList.FORBIDDEN) as api:
            for _ in range(8):
                api.fail(SERVICES, None, None, Refuse(410, "Expired", "too old"))
            stopping = run(api, told)
            queries(api, count=8 * 3 + 3)
            assert 8 == len(stopping.waits)
            assert 1 < max(stopping.waits)
            api.put(service("a"))

            trouble = "trouble: what was just listed cannot be watched: 410 Expired: too old"
            assert [trouble, "no trouble"] == [text for text in told.until("no trouble") if "trouble" in text]

    def test_pages_of_a_consistent_read_are_the_last_resort(self, run, told):
        names = [f"s{number:04}" for number in range(1100)]
        with FakeApi(watch_list=WatchList.FORBIDDEN) as api:
            run(api, told)
            told.until("listed ")
            queries(api, count=3)
            with api.at_once():
                api.say(SERVICES, EXPIRED)
                for name in names:
                    api.put(service(name))
                api.go_back(50)
            told.until("listed " + " ".join(f"default/{name}" for name in names))

            pages = [query for kind, query in queries(api, count=13) if "limit" in query]
            assert [
                {"limit": "500"},
                {"limit": "500", "continue": "500"},
                {"limit": "500", "continue": "1000"},
            ] == pages

    def test_a_silent_watch_is_opened_anew_from_where_it_was(self, run, told):
        with FakeApi() as api:
            run(api, told, silence=0.1)

            assert ("watch", {"resourceVersion": "100"}) == queries(api, count=2)[1]
            assert without_trouble(told.until("listed ")) == ["listed "]


class TestTrouble:
    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            pytest.param(
                Refuse(403, "Forbidden", 'services is forbidden: "x" cannot watch'),
                '403 Forbidden: services is forbidden: "x" cannot watch; RBAC must allow: watch services',
                id="403",
            ),
            pytest.param(Refuse(429, "TooManyRequests", "slow"), "429 TooManyRequests: slow", id="429"),
            pytest.param(Refuse(503, "ServiceUnavailable", "etcd"), "503 ServiceUnavailable: etcd", id="503"),
            pytest.param(
                Drop(), "Remote end closed connection without response", id="closed without an answer"
            ),
            pytest.param(
                Say(b"<html>\n"),
                "the watch says what is no event: JSON is malformed: invalid character (byte 0)",
                id="a page of HTML",
            ),
            pytest.param(
                Say(b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":""}}}\n'),
                "the watch says what is no object: "
                "Expected `str` of length >= 1 - at `$.metadata.resourceVersion`",
                id="a bookmark that says nothing",
            ),
            pytest.param(
                Say(b'{"type":"ADDED","object":{"metadata":{"name":"a"}}}\n{"type":"MOVED","object":{}}\n'),
                "the watch says what is no event: Invalid enum value 'MOVED' - at `$.type`",
                id="an unknown event",
            ),
            pytest.param(
                Say(b'{"type":"ERROR","object":{"kind":"Status","code":500,"message":"caf\xe9"}}\n'),
                "the watch says what is no event: "
                "'utf-8' codec can't decode byte 0xe9 in position 3: unexpected end of data",
                id="an event that is not UTF-8",
            ),
            pytest.param(
                Say(b'{"type":"BOOKMARK","object":{"metadata":' + 3000 * b"[" + 3000 * b"]" + b"}}\n"),
                "the watch says what is no event: "
                "maximum recursion depth exceeded while deserializing an object",
                id="an event of great depth",
            ),
        ],
    )
    def test_it_is_told_once_and_once_that_it_is_over(self, run, told, fault, message):
        with FakeApi() as api:
            api.fail(SERVICES, fault, fault, fault)
            run(api, told)
            troubles = [text for text in told.until("listed ") if "trouble" in text]

            assert [f"trouble: {message}", "no trouble"] == troubles

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            pytest.param(
                Say(b"<html>\n"),
                "the answer is not a list of objects: JSON is malformed: invalid character (byte 0)",
                id="a page of HTML",
            ),
            pytest.param(
                Say(b'{"kind":"ServiceList","metadata":{"resourceVersion":"1"},"items":[{"metadata":{'),
                "the answer is not a list of objects: Input data was truncated",
                id="cut short",
            ),
            pytest.param(
                Say(b"{}", "gzip"),
                "Error -3 while decompressing data: incorrect header check",
                id="not compressed as it says",
            ),
        ],
    )
    def test_that_of_a_list_is_told_once_too(self, run, told, fault, message):
        with FakeApi(watch_list=WatchList.FORBIDDEN) as api:
            api.fail(SERVICES, *[None, fault] * 3)
            run(api, told)

            assert [f"trouble: {message}", "no trouble", "listed "] == told.until("listed ")

    def test_it_names_the_url(self, run, told):
        with FakeApi() as api:
            api.fail(SERVICES, Drop())
            run(api, told)
            told.until("no trouble")

            assert {f"{api.url}/api/v1/services"} == {
                change.source for change in told.changes if isinstance(change, Trouble)
            }

    def test_garbage_in_a_watch_is_told_and_the_watch_opened_anew(self, run, told):
        with FakeApi() as api:
            run(api, told)
            told.until("listed ")
            version = api.put(service("a"))
            told.until("put default/a")
            api.say(SERVICES, b"\x00garbage\n")
            queries(api, count=2)
            api.put(service("b"))

            expected = [
                "listed ",
                "put default/a",
                "trouble: the watch says what is no event: JSON is malformed: invalid character (byte 0)",
                "put default/b",
                "no trouble",
            ]
            assert expected == told.until("no trouble")
            assert ("watch", {"resourceVersion": str(version)}) == queries(api)[1]

    def test_a_server_that_asks_for_time_gets_it(self, run, told):
        with FakeApi() as api:
            api.fail(SERVICES, Refuse(429, "TooManyRequests", retry_after=45))
            stopping = run(api, told)
            told.until("listed ")

            assert 45 in stopping.waits

    def test_waits_grow_to_half_a_minute_at_random_and_begin_anew_after_success(self, run, told):
        with FakeApi() as api:
            api.fail(SERVICES, *[Drop()] * 12)
            stopping = run(api, told)
            told.until("listed ")
            first = list(stopping.waits)
            api.drop_watches(SERVICES)
            queries(api, count=14)

        limits = [min(2**attempt, 30) for attempt in range(12)]
        assert [True] * 12 == [0 <= wait <= limit for wait, limit in zip(first, limits, strict=True)]
        assert max(first) > 1
        assert stopping.waits[12] <= 1

    def test_a_token_that_ended_is_read_anew_without_a_word(self, run, told, tmp_path):
        with FakeApi() as api:
            run(api, told)
            told.until("listed ")
            with api.at_once():
                api.tokens = {"renewed"}
                (tmp_path / "token").write_text("renewed")
                api.drop_watches(SERVICES)
                api.put(service("a"))

            assert "put default/a" in told.until("put default/a")
            assert "Bearer renewed" == api.requests_for(SERVICES, 3)[-1].authorization
            assert not [text for text in told.until("put default/a") if "401" in text]

    def test_a_kubeconfig_that_was_broken_meanwhile_is_trouble_until_it_is_mended(self, run, told, tmp_path):
        with FakeApi() as api:
            run(api, told)
            told.until("listed ")
            kubeconfig = tmp_path / "kubeconfig"
            kubeconfig.write_bytes(b"\xff")
            with api.at_once():
                api.tokens = {"renewed"}
                api.drop_watches(SERVICES)
            reason = "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"
            told.until(f"trouble: kubeconfig {kubeconfig}: {reason}")

            api.write_kubeconfig(tmp_path, token="renewed")
            told.until("no trouble")

    def test_a_token_that_is_not_accepted_is_trouble(self, run, told):
        with FakeApi(tokens=["another"]) as api:
            run(api, told)

            message = "trouble: 401 Unauthorized: Unauthorized; the credentials are not accepted"
            assert [message] == told.until(message)


class TestConnection:
    @pytest.mark.parametrize(
        ("level", "option", "seconds"),
        [
            pytest.param(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1, id="it is asked whether it lives"),
            pytest.param(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15, id="after"),
            pytest.param(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5, id="every"),
            pytest.param(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3, id="so often"),
        ],
    )
    def test_a_peer_that_lost_power_is_noticed_within_half_a_minute(self, tmp_path, level, option, seconds):
        with FakeApi() as api:
            client = ApiClient(api.write_kubeconfig(tmp_path))
            with client.get(NODES, {}, 1.0):
                held = client._line._socket

                assert seconds == held.getsockopt(level, option)


class TestStop:
    @pytest.mark.parametrize("fault", [None, Hang()], ids=["in a watch", "before the answer"])
    def test_threads_end_within_a_second_whatever_they_wait_for(self, tmp_path, told, fault):
        with FakeApi() as api:
            for path in (SERVICES, ENDPOINT_SLICES, NODES):
                api.fail(path, *[fault] if fault else [])
            source = KubeSource(api.write_kubeconfig(tmp_path), "node-a", told)
            source.start()
            for path in (SERVICES, ENDPOINT_SLICES, NODES):
                api.requests_for(path, 1)
            begin = time.monotonic()
            source.stop()

            assert time.monotonic() - begin < 1
            assert [] == [thread for thread in threading.enumerate() if thread.name.startswith("watch ")]
