"""What single benchmarks measure by, and when their goals are reached."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import ClassVar

import pytest

from benchmarks import (
    audit,
    bench,
    change,
    contenders,
    floor,
    idle,
    in_hand,
    kube_proxy,
    results,
    rolling,
    scale,
    stamped,
    start,
    status,
)
from benchmarks.sizes import Size
from ipvs_agent.kernel.netlink import NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket
from ipvs_agent.reconcile.report import Report
from ipvs_agent.reconcile.timers import Timers


@pytest.mark.parametrize(
    ("query", "name"),
    [
        pytest.param("resourceVersion=0", "list services", id="list"),
        pytest.param("watch=true&resourceVersion=7", "watch services", id="watch"),
        pytest.param("watch=true&sendInitialEvents=true", "WatchList services", id="watch list"),
        pytest.param("limit=500", "consistent list services", id="page"),
    ],
)
def test_requests_are_told_apart(query, name):
    assert name == scale.request_name(f"https://api.test/api/v1/services?{query}")


class TestStages:
    def test_they_are_the_agents_own_words(self, caplog):
        caplog.set_level("INFO", "ipvs_agent")
        Report(Timers(), lambda: 0.0).serving(2, 3, 1, {"foundation": 0.5, "compile": 0.0123})

        said = f"2026-01-01T00:00:00.000Z INFO    starting\n2026 INFO    {caplog.messages[0]}\n"
        assert {"foundation": 0.5, "compile": 0.012} == bench.stages(said)


class TestStopwatch:
    def test_what_a_call_within_another_takes_is_not_counted_twice(self):
        now = iter([0.0, 1.0, 4.0, 6.0, 10.0, 11.0])
        watch = in_hand.Stopwatch(lambda: next(now))
        inner = watch.timed("kernel", lambda: None)

        watch.timed("encode", lambda: [inner(), "done"])()
        inner()

        assert {"encode": 3.0, "kernel": 3.0 + 1.0} == watch.seconds

    def test_the_answer_and_the_arguments_go_through(self):
        assert [1, 2] == in_hand.Stopwatch().timed("list", sorted)([2, 1], reverse=False)

    def test_all_that_is_timed_is_put_back(self):
        before = [getattr(owner, name) for owner, name, _ in in_hand.TIMED]

        with in_hand.Stopwatch().watching():
            pass

        assert before == [getattr(owner, name) for owner, name, _ in in_hand.TIMED]


BARRIER = floor._HEADER.pack(16, 1, 5, 7, 0)


class Socket:
    """A socket whose kernel answers each burst with the next of some answers."""

    def __init__(self, answers):
        self.sent = []
        self._answers = answers

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def send(self, data):
        self.sent.append(data)

    def recv_into(self, room, size, flags):
        if not self._answers:
            raise BlockingIOError
        answer = self._answers.pop(0)
        room[: len(answer)] = answer
        return len(answer)


def answer(sequence=7, error=0):
    return floor._ANSWER.pack(36, 2, 0, sequence, 0, -error) + BARRIER


class TestFloor:
    def replay(self, monkeypatch, bursts, answers):
        sockets = {protocol: Socket(answers) for protocol in floor.WHAT}
        monkeypatch.setattr(floor, "_open", sockets.__getitem__)
        recording = floor.Recording()
        recording.bursts += bursts
        return recording.replay(), sockets

    def test_bytes_are_noted_as_they_were_sent(self):
        recording = floor.Recording()
        with recording.record():
            sock = NetlinkSocket(NETLINK_ROUTE)
        nothing_to_do = (1, 0, b"four")
        sock.send([nothing_to_do, nothing_to_do])
        sock.close()

        ((protocol, burst),) = recording.bursts
        assert (NETLINK_ROUTE, 2 * 20 + 16, 2) == (protocol, len(burst), burst.count(b"four"))

    def test_sockets_are_the_usual_ones_afterwards(self):
        recording = floor.Recording()
        with recording.record():
            pass
        sock = NetlinkSocket(NETLINK_ROUTE)
        sock.send([(1, 0, b"")])
        sock.close()

        assert [] == recording.bursts

    @pytest.mark.parametrize("data", [b"", b"\0" * 15, floor._HEADER.pack(16, 18, 0x301, 7, 0)])
    def test_a_lone_question_is_no_burst(self, data):
        assert not floor.has_barrier(data)

    def test_each_burst_goes_to_a_socket_of_its_protocol_in_order(self, monkeypatch):
        bursts = [(NETLINK_ROUTE, b"1" + BARRIER), (NETLINK_GENERIC, BARRIER), (NETLINK_ROUTE, BARRIER)]

        seconds, sockets = self.replay(monkeypatch, bursts, [answer()] * 3)

        assert [b"1" + BARRIER, BARRIER] == sockets[NETLINK_ROUTE].sent
        assert [BARRIER] == sockets[NETLINK_GENERIC].sent
        assert {"ipvs": True, "sets": False, "vips": True} == {
            what: bool(one) for what, one in seconds.items()
        }
        assert [] == sockets[NETLINK_NETFILTER].sent

    @pytest.mark.parametrize(
        "refused",
        [pytest.param(answer(error=17), id="the last"), pytest.param(answer(6, 17), id="one before it")],
    )
    def test_a_floor_of_refused_messages_is_none(self, monkeypatch, refused):
        with pytest.raises(RuntimeError, match="refused a replayed message of ipvs: File exists"):
            self.replay(monkeypatch, [(NETLINK_GENERIC, BARRIER)], [refused])


class TestStart:
    def test_vips_are_made_by_hand_as_addresses_or_routes(self):
        addresses = "9: kube-ipvs0    inet 10.96.1.0/32 scope host kube-ipvs0\\       valid_lft forever\n"
        routes = "local 10.96.1.1 scope host metric 4945 \n"

        assert (
            "address add 10.96.1.0/32 dev kube-ipvs0 scope host\n"
            "route add local 10.96.1.1 scope host metric 4945  dev kube-ipvs0 table local proto 81\n"
        ) == start.vips_by_hand(addresses, routes)

    def test_tools_that_would_have_nothing_to_do_are_not_timed(self):
        with pytest.raises(RuntimeError, match="no VIP"):
            start.vips_by_hand("", "")

    def test_the_try_in_the_middle_counts_as_a_whole(self):
        tries = [{"all": 3.0, "list": 0.1}, {"all": 1.0, "list": 0.9}, {"all": 2.0, "list": 0.5}]

        assert {"all": 2.0, "list": 0.5} == start._middle(tries, lambda one: one["all"])

    @pytest.mark.parametrize(
        ("size", "in_hand", "agent", "is_reached"),
        [
            (80_000, 4.0, 100.0, True),
            (80_000, 4.1, 100.0, False),
            (79_999, 9.0, 100.0, True),
            (10_000, 9.0, 1.9, True),
            (10_000, 9.0, 2.0, False),
        ],
    )
    def test_goals_are_for_json_in_hand_at_large_sizes_and_for_the_whole_at_small_ones(
        self, monkeypatch, size, in_hand, agent, is_reached
    ):
        parts = {"list": 0.1, "decode": 0.1, "compile": 0.1, "encode": 0.1, "kernel": 0.1, "rest": 0.1}
        row = {"services": "1 of 1", "size": size, "floor": 1.0, "in_hand": in_hand, "agent": agent}
        row |= {f"in_hand_{stage}": seconds for stage, seconds in parts.items()}
        monkeypatch.setattr(start, "_load_modules", lambda: None)
        monkeypatch.setattr(start, "_measure", lambda size: row)
        monkeypatch.setattr(results, "keep", lambda benchmark, rows: None)

        assert is_reached == start.main([Size(1, 1)])


class TestChange:
    def rows(self, *sizes_and_figures):
        rows = [
            {"size": size.services, "endpoints": size.endpoints, "median_ms": median, "p99_ms": p99}
            for size, median, p99 in sizes_and_figures
        ]
        change._compare(rows)
        return rows

    def test_many_services_are_compared_with_few_of_as_many_endpoints(self):
        few, many, other = self.rows(
            (Size(10, 10), 2.0, 4.0), (Size(10_000, 10), 3.0, 8.0), (Size(5000, 50), 9.0, 9.0)
        )

        assert (1.0, 1.0) == (few["median_times"], few["p99_times"])
        assert (1.5, 2.0) == (many["median_times"], many["p99_times"])
        assert (None, None) == (other["median_times"], other["p99_times"])

    @pytest.mark.parametrize(
        ("median", "p99", "is_reached"),
        [
            pytest.param(3.0, 6.0, True, id="at most 1.5 times"),
            pytest.param(3.1, 6.0, False, id="median more than 1.5 times"),
            pytest.param(3.0, 6.1, False, id="99th percentile more than 1.5 times"),
        ],
    )
    def test_the_goal_of_many_depends_on_few(self, median, p99, is_reached):
        _, many = self.rows((Size(10, 10), 2.0, 4.0), (Size(10_000, 10), median, p99))

        assert is_reached == change._reached(many)

    @pytest.mark.parametrize(
        ("median", "p99", "is_reached"), [(4.9, 19.9, True), (5.0, 19.9, False), (4.9, 20.0, False)]
    )
    def test_without_few_the_bounds_count(self, median, p99, is_reached):
        (row,) = self.rows((Size(10_000, 10), median, p99))

        assert is_reached == change._reached(row)


class TestAudit:
    @pytest.mark.parametrize(
        ("figures", "is_reached"),
        [
            pytest.param({}, True, id="changes go on"),
            pytest.param({"median_ms": 5.0}, False, id="changes wait"),
            pytest.param({"p99_ms": 20.0}, False, id="some wait"),
            pytest.param({"repairs": 1}, False, id="a change of its own is taken for one by others"),
            pytest.param({"median_ms": None, "p99_ms": None}, True, id="over before a change came"),
        ],
    )
    @pytest.mark.parametrize("kind", ["first_", ""])
    def test_neither_the_first_nor_a_later_one_holds_anything_up(self, kind, figures, is_reached):
        good = {"median_ms": 4.9, "p99_ms": 19.9, "repairs": 0}
        row = good | {f"first_{name}": figure for name, figure in good.items()}

        assert is_reached == audit._reached(row | {f"{kind}{name}": each for name, each in figures.items()})

    def test_an_audit_is_seen_from_its_begin_to_its_end(self):
        made = FakeAudits()
        agent = bench.AgentInProcess.__new__(bench.AgentInProcess)
        agent.audits_begun, agent.audits_ended = [], []
        agent._watch_audits(made)

        made.start("needs", None)
        made.start("needs", None)
        assert (1, True) == (len(agent.audits_begun), audit._goes_on(agent, 0))

        made.end()
        assert not audit._goes_on(agent, 0)
        assert audit._goes_on(agent, 1)


class FakeAudits:
    """Refuses to start twice, as the real ones do."""

    is_laying = False

    def start(self, needs, before):
        self.is_laying = True

    def end(self):
        self.is_laying = False


AGENT = {"tables_s": 8.0, "change_s": 0.1, "settled_mb": 100.0}
OTHER = {"tables_s": 160.0, "change_s": 10.0, "settled_mb": 100.0}


class TestKubeProxy:
    def test_the_goals_are_reached_together(self):
        assert kube_proxy._reached(AGENT, OTHER)

    @pytest.mark.parametrize("figures", [{"tables_s": 8.1}, {"change_s": 0.11}, {"settled_mb": 101.0}])
    def test_the_agent_may_miss_one(self, figures):
        assert not kube_proxy._reached(AGENT | figures, OTHER)

    @pytest.mark.parametrize("name", ["tables_s", "change_s", "settled_mb"])
    def test_what_was_not_measured_is_not_reached(self, name):
        assert not kube_proxy._reached(AGENT, OTHER | {name: None})
        assert not kube_proxy._reached(AGENT | {name: None}, OTHER)

    def test_the_two_stand_above_what_is_between_them(self):
        unmeasured = dict.fromkeys(kube_proxy._MEASURED)
        agent = unmeasured | AGENT | {"services": "10 of 10", "who": "ipvs-agent"}
        other = unmeasured | OTHER | {"services": "10 of 10", "who": "kube-proxy", "tables_s": None}

        assert [
            ("10 of 10", "ipvs-agent", "8", "-", "0.1", "-", "-", "-", "100", "-"),
            ("10 of 10", "kube-proxy", "-", "-", "10", "-", "-", "-", "100", "-"),
            ("", "times as much", "-", "-", "100", "-", "-", "-", "1", "-"),
        ] == list(kube_proxy._lines(agent, other))


class TestIdle:
    def test_what_is_taken_of_a_minute_is_told_by_what_is_left(self):
        assert 1.2 == pytest.approx(idle.minute_of(alone=500.0, at_work=490.0))

    def test_each_audit_is_written_down_and_one_that_is_put_off_is_not(self, tmp_path, monkeypatch):
        monkeypatch.setattr(stamped, "Audits", FakeAudits)

        def agent(arguments):
            audits = FakeAudits()
            audits.start("needs", None)
            audits.start("needs", None)
            audits.end()
            audits.start("needs", None)
            return arguments

        monkeypatch.setattr(stamped, "ipvs_agent", agent)

        assert ["run"] == stamped.main(tmp_path / "audits", ["run"])
        first, second = stamped.read(tmp_path / "audits")
        assert first <= second

    def test_before_the_first_there_is_none(self, tmp_path):
        assert [] == stamped.read(tmp_path / "audits")


class TestTables:
    def test_few_are_looked_at_while_one_of_them_is_not_complete(self):
        looks = []
        tables = contenders.Tables(10_000, lambda service: looks.append(service) or service < 9_000)

        for _ in range(100):
            assert not tables.are_complete()

        assert 130 > len(looks)

    @pytest.mark.parametrize("missing", [0, 1, 4_321, 9_999])
    def test_one_that_is_not_complete_is_found(self, missing):
        lacking = {missing}
        tables = contenders.Tables(10_000, lambda service: service not in lacking)

        assert not tables.are_complete()
        lacking.clear()
        assert tables.are_complete()

    def test_none_is_looked_at_again_once_it_was_complete(self):
        looks = Counter()
        lacking = {5}

        def is_complete(service):
            looks[service] += 1
            return service not in lacking

        tables = contenders.Tables(1_000, is_complete)
        while not tables.are_complete():
            if looks[5] == 10:
                lacking.clear()

        assert 2 >= max(count for service, count in looks.items() if service != 5)

    @pytest.mark.parametrize("services", [1, 19, 20, 21])
    def test_there_may_be_few_of_them(self, services):
        tables = contenders.Tables(services, lambda service: True)

        assert (True, services) == (tables.are_complete(), tables.complete)


class TestScale:
    START: ClassVar = {"phase": "start", "lists from etcd": 0.0}
    RESTART: ClassVar = {
        "phase": "restart",
        "agents": 100,
        "requests": {"WatchList services": 100, "watch endpointslices": 300},
        "asked twice": 0,
        "per_second": [150, 150, 60, 20],
        "caught up, last": 32.0,
    }

    def misses(self, **figures):
        rows = [self.START | figures, {}, self.RESTART, self.RESTART | figures]
        return list(scale.misses(rows))

    def test_agents_that_come_back_gently_reach_the_goals(self):
        assert [] == self.misses()

    @pytest.mark.parametrize(
        ("figures", "words"),
        [
            pytest.param({"lists from etcd": 2.0}, "the database was read 2 times", id="lists at the start"),
            pytest.param(
                {"requests": {"WatchList endpointslices": 100, "consistent list services": 4}},
                "4 times consistent list services, which reads the database",
                id="reads of the database after a restart",
            ),
            pytest.param(
                {"asked twice": 2}, "2 times an agent asked again for all of a kind", id="asks twice"
            ),
            pytest.param({"per_second": [9, 9, 61]}, "61 of 300 watches came in one second", id="a wave"),
            pytest.param({"caught up, last": 61.0}, "knew what is new after 61 s", id="late"),
        ],
    )
    def test_each_goal_can_be_missed(self, figures, words):
        (missed,) = self.misses(phase="this", **figures)

        assert missed.startswith("this: ")
        assert missed.endswith(words)

    def test_who_asks_twice_for_all_of_a_kind_is_counted(self):
        said = [
            *(scale.Said(agent, "WatchList services", 0.0) for agent in (1, 1, 1, 2)),
            *(scale.Said(3, f"{verb} endpointslices", 0.0) for verb in ("WatchList", "list", "watch")),
            *(scale.Said(4, f"watch {plural}", 0.0) for plural in ("services", "services", "nodes")),
            scale.Said(4, "consistent list nodes", 0.0),
        ]

        assert 2 == scale._asked_twice(said)

    def test_few_agents_make_no_wave(self):
        assert [] == self.misses(agents=49, requests={}, per_second=[0, 0, 100])


class TestGoals:
    """Of those whose figures a table shows as they are."""

    def is_reached(self, monkeypatch, benchmark, **figures):
        row = {"services": "1 of 1", "size": 1} | figures
        monkeypatch.setattr(benchmark, "_measure", lambda size: row)
        monkeypatch.setattr(results, "keep", lambda benchmark, rows: None)
        return benchmark.main([Size(1, 1)])

    @pytest.mark.parametrize(
        ("share", "longest", "expected"), [(0.19, 199.0, True), (0.2, 1.0, False), (0.1, 200.0, False)]
    )
    def test_rolling(self, monkeypatch, share, longest, expected):
        figures = {"share": share, "median_ms": 1.0, "p99_ms": 2.0, "longest_ms": longest}

        assert expected == self.is_reached(monkeypatch, rolling, **figures)

    @pytest.mark.parametrize(
        ("cpu", "audits", "expected"), [(0.09, 1.49, True), (0.1, 1.0, False), (0.0, 1.5, False)]
    )
    def test_idle(self, monkeypatch, cpu, audits, expected):
        memory = dict.fromkeys(
            ("api_settled_mb", "api_peak_mb", "manifests_settled_mb", "manifests_peak_mb"), 9.0
        )

        assert expected == self.is_reached(
            monkeypatch, idle, idle=cpu, audits=audits, manifests=9.0, **memory
        )

    def test_idle_keeps_each_size_before_it_measures_the_next(self, monkeypatch):
        done = []

        def measure(size):
            done.append(f"measured {size}")
            return defaultdict(float, services=str(size))

        monkeypatch.setattr(idle, "_measure", measure)
        monkeypatch.setattr(
            results, "keep", lambda _, rows: done.extend(f"kept {one['services']}" for one in rows)
        )

        idle.main([Size(1, 1), Size(2, 2)])

        assert ["measured 1 of 1", "kept 1 of 1", "measured 2 of 2", "kept 2 of 2"] == done

    @pytest.mark.parametrize(
        ("lines", "agent", "equal", "expected"),
        [
            pytest.param(100_000, 2.0, True, True, id="five times as fast"),
            pytest.param(100_000, 2.1, True, False, id="less than that"),
            pytest.param(99_999, 9.0, True, True, id="of few lines the time does not count"),
            pytest.param(10, 1.0, False, False, id="their bytes do"),
        ],
    )
    def test_status(self, monkeypatch, lines, agent, equal, expected):
        figures = {"ipvsadm": 10.0, "agent": agent, "agent_start": 1.0, "agent_json": 3.0}

        assert expected == self.is_reached(monkeypatch, status, lines=lines, equal=equal, **figures)
