"""What benchmarks share that needs no kernel."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter, defaultdict
from typing import ClassVar

import pytest

from benchmarks import __main__ as command
from benchmarks import (
    api,
    audit,
    bench,
    change,
    cluster,
    contenders,
    floor,
    idle,
    in_hand,
    kube_proxy,
    plots,
    progress,
    results,
    scale,
    sizes,
    stamped,
    start,
    summary,
    table,
)
from benchmarks.sizes import Size
from ipvs_agent.kernel.netlink import NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket
from ipvs_agent.reconcile.report import Report
from ipvs_agent.reconcile.timers import Timers
from tests.kube import build


class TestSizes:
    def test_services_by_endpoints(self):
        assert Size(1000, 10) == sizes.parse("1000x10")

    @pytest.mark.parametrize("text", ["", "10", "x10", "10x", "0x10", "10x0", "-1x10", "1,000x10", "ax10"])
    def test_nonsense_is_named(self, text):
        with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is no size"):
            sizes.parse(text)

    def test_people_read_it_with_commas(self):
        assert "40,000 of 2" == str(Size(40000, 2))
        assert Size(40000, 2) == sizes.read("40,000 of 2")


class TestCluster:
    def test_no_slice_has_more_endpoints_than_kubernetes_puts_into_one(self):
        slices = list(cluster.endpoint_slices(3, 250))

        assert [100, 100, 50] == [len(one["endpoints"]) for one in slices]
        assert ["s3-0", "s3-1", "s3-2"] == [one["metadata"]["name"] for one in slices]
        assert 250 == len({tuple(end["addresses"]) for one in slices for end in one["endpoints"]})
        assert 250 == len({end["targetRef"]["name"] for one in slices for end in one["endpoints"]})

    @pytest.mark.parametrize(("index", "part"), [(0, 0), (99, 0), (100, 1), (249, 2)])
    def test_a_change_is_in_the_slice_of_its_endpoint(self, index, part):
        before = list(cluster.endpoint_slices(3, 250))[part]

        after = cluster.changed_slice(3, 250, index, "10.255.0.1")

        changed = after["endpoints"][index % 100]
        assert ["10.255.0.1"] == changed["addresses"]
        changed["addresses"] = before["endpoints"][index % 100]["addresses"]
        assert before == after

    @pytest.mark.parametrize("size", [(2, 1), (3, 100), (3, 101)])
    def test_objects_are_counted(self, size):
        assert len(list(cluster.objects(*size))) == cluster.count(*size)


class Server:
    """Keeps the names of what was created and not deleted."""

    def __init__(self):
        self.there = {}
        self.written = 0

    def create(self, thing):
        assert thing["metadata"]["name"] not in self.there
        self.there[thing["metadata"]["name"]] = thing
        self.written += 1

    def delete(self, thing):
        del self.there[thing["metadata"]["name"]]


class TestGrow:
    @pytest.mark.parametrize(
        ("before", "written"),
        [
            pytest.param(None, 5 * 3, id="from nothing"),
            pytest.param(Size(2, 150), 3 * 3, id="more Services"),
            pytest.param(Size(2, 20), 3 * 3 + 2 * 2, id="more endpoints too"),
            pytest.param(Size(5, 301), 5 * 2, id="fewer endpoints"),
            pytest.param(Size(5, 150), 0, id="nothing new"),
        ],
    )
    def test_what_is_there_becomes_what_is_asked_for(self, before, written):
        server = Server()
        if before is not None:
            api.grow(server, None, before)
            server.written = 0

        api.grow(server, before, Size(5, 150))

        assert {one["metadata"]["name"]: one for one in cluster.objects(5, 150)} == server.there
        assert written == server.written


class TestResults:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
        monkeypatch.setattr(results, "RUN", defaultdict(list))
        monkeypatch.setattr(results, "FILE", tmp_path / "results" / "results.jsonl")
        return tmp_path / "results"

    def test_each_table_is_a_line_with_where_it_was_measured(self):
        rows = [[{"size": 10, "seconds": 0.25}], [{"size": 100, "seconds": None}]]
        for one in rows:
            results.keep("start", one)

        kept = list(results.read(results.FILE))
        assert rows == [one["rows"] for one in kept]
        assert {"benchmark", "at", "machine", "versions", "load", "rows"} == set(kept[0])

    def test_a_run_has_all_of_its_tables(self):
        results.keep("kube-proxy", [{"size": 10}])
        results.keep("kube-proxy", [{"size": 100}])

        assert {"kube-proxy": [{"size": 10}, {"size": 100}]} == results.RUN

    def test_a_line_is_json(self, folder):
        results.keep("start", [{"size": 10}])

        (line,) = (folder / "results.jsonl").read_text().splitlines()
        assert "start" == json.loads(line)["benchmark"]


class TestVersions:
    @pytest.mark.parametrize(
        ("said", "version"),
        [
            ("ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v1.2.1)\n", "v1.31"),
            ("ipset v7.17, protocol version: 7\n", "v7.17"),
            ("ip utility, iproute2-6.1.0, libbpf 1.1.0\n", "iproute2-6.1.0"),
            ("", ""),
        ],
    )
    def test_programs_say_theirs_in_many_ways(self, said, version):
        assert version == table._version(said)

    def test_a_program_that_is_not_there_says_nothing(self):
        assert "" == table._said("no-such-program-anywhere")

    def test_kube_proxy_is_the_one_that_is_built_here(self):
        assert build.VERSION == table.versions()["kube-proxy"]


class TestLatencies:
    def test_they_are_in_ms(self):
        found = results.latencies([number / 1000 for number in range(101)])

        assert {"median_ms": 50, "p99_ms": 99, "longest_ms": 100} == pytest.approx(found)

    def test_of_few_none_is_longer_than_the_longest(self):
        assert 2 >= results.latencies([0.001, 0.002])["p99_ms"]

    def test_one_is_all_of_them(self):
        assert {5.0} == set(results.latencies([0.005]).values())


class TestProgress:
    def test_nothing_is_said_where_nobody_reads_it(self, capsys, monkeypatch):
        monkeypatch.delenv(progress.TERMINAL, raising=False)

        assert [1, 2] == list(progress.over([1, 2], 2, "things"))
        assert "" == capsys.readouterr().err

    @pytest.fixture
    def terminal(self, monkeypatch):
        monkeypatch.setenv(progress.TERMINAL, "yes")

    def test_the_line_is_cleared_at_the_end(self, capsys, terminal):
        assert [1, 2] == list(progress.over([1, 2], 2, "things"))
        assert f"\r\033[Kthings: [{'.' * 20}]   0% 0 of 2\r\033[K" == capsys.readouterr().err

    def test_it_is_cleared_where_not_all_are_wanted(self, capsys, terminal):
        for _ in progress.over([1, 2], 2, "things"):
            break

        assert capsys.readouterr().err.endswith("\r\033[K")

    @pytest.mark.parametrize(
        ("done", "total", "bar"),
        [
            (250, 1_000, "[#####...............]  25% 250 of 1,000"),
            (1_000, 1_000, "[####################] 100% 1,000 of 1,000"),
            (3, 2, "[####################] 100% 3 of 2"),
            (0, 0, "[####################] 100% 0 of 0"),
        ],
    )
    def test_a_bar_shows_the_share_that_is_done(self, capsys, terminal, done, total, bar):
        progress.share(done, total, "things")

        assert f"\r\033[Kthings: {bar}" == capsys.readouterr().err

    def test_steps_are_counted_as_they_begin(self, capsys, terminal):
        steps = progress.Steps(2, "start")
        steps.begin("one")
        steps.begin("other")

        assert capsys.readouterr().err.endswith("\r\033[Kstart: other: [##########..........]  50% 1 of 2")

    def test_what_waits_shows_how_long_it_has(self, capsys, terminal, monkeypatch):
        now = [7.0]
        monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(progress.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

        progress.wait(2.5, "a moment")

        said = capsys.readouterr().err.split("\r\033[K")
        assert ["  0% 0 of 2 s", " 40% 1 of 2 s", " 80% 2 of 2 s"] == [one[-13:] for one in said[1:-1]]
        assert 9.5 == now[0]

    def test_where_nobody_knows_how_long_there_is_no_bar(self, capsys, terminal, monkeypatch):
        monkeypatch.setattr(progress.time, "monotonic", lambda: 12.0)

        progress.since(2.0, "first sync")

        assert "\r\033[Kfirst sync: 10 s" == capsys.readouterr().err


@pytest.mark.parametrize(
    ("query", "name"),
    [
        pytest.param("resourceVersion=0", "list services", id="list"),
        pytest.param("watch=true&resourceVersion=7", "watch from a version services", id="watch"),
        pytest.param("watch=true&sendInitialEvents=true", "WatchList services", id="watch list"),
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
            "route add local 10.96.1.1 scope host metric 4945  dev kube-ipvs0 table local\n"
        ) == start.vips_by_hand(addresses, routes)

    def test_tools_that_would_have_nothing_to_do_are_not_timed(self):
        with pytest.raises(RuntimeError, match="no VIP"):
            start.vips_by_hand("", "")

    def test_the_try_in_the_middle_counts_as_a_whole(self):
        tries = [{"all": 3.0, "list": 0.1}, {"all": 1.0, "list": 0.9}, {"all": 2.0, "list": 0.5}]

        assert {"all": 2.0, "list": 0.5} == start._middle(tries, lambda one: one["all"])

    @pytest.mark.parametrize(
        ("size", "in_hand", "is_reached"),
        [(80_000, 4.0, True), (80_000, 4.1, False), (79_999, 9.0, True)],
    )
    def test_the_goal_is_for_json_in_hand_at_large_sizes(self, monkeypatch, size, in_hand, is_reached):
        parts = {"list": 0.1, "decode": 0.1, "compile": 0.1, "encode": 0.1, "kernel": 0.1, "rest": 0.1}
        row = {"services": "1 of 1", "size": size, "floor": 1.0, "in_hand": in_hand, "agent": 100.0}
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
    def test_it_holds_nothing_up(self, figures, is_reached):
        assert is_reached == audit._reached({"median_ms": 4.9, "p99_ms": 19.9, "repairs": 0} | figures)

    def test_an_audit_is_seen_from_its_begin_to_its_end(self):
        made = FakeAudits()
        agent = bench.AgentInProcess.__new__(bench.AgentInProcess)
        agent.audits_begun, agent.audits_ended = [], []
        agent._watch_audits(made)

        made.start("needs", None)
        made.start("needs", None)
        assert (True, 1) == (audit._is_under_way(agent), len(agent.audits_begun))

        made.end()
        assert not audit._is_under_way(agent)


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


class TestSummary:
    START: ClassVar = {"services": "10 of 10", "floor": 0.5, "in_hand": 1.0, "agent": 4.0}
    TOOLS: ClassVar = {"ipvsadm": 2.0, "ipset": 1.0, "ip": 1.0}

    def lines(self, **run):
        return [" ".join(line).removeprefix("10 of 10: ") for line in summary.lines(run)]

    def test_a_start_stands_beside_the_floor_and_the_tools_in_all(self):
        assert [
            "start from JSON in hand, s 0.5 1 - 4 2 - 4",
            "start, whole process, s 0.5 4 - 4 8 - 1",
        ] == self.lines(start=[self.START | self.TOOLS])

    def test_tools_of_which_one_did_not_run_are_no_sum(self):
        first, _ = self.lines(start=[self.START | self.TOOLS | {"ipvsadm": None}])

        assert "start from JSON in hand, s 0.5 1 - - 2 - -" == first

    def test_the_two_from_the_api_stand_beside_each_other_and_the_floor_of_their_size(self):
        figures = {"services": "10 of 10", "change_cpu_s": None, "idle_cpu_s": 0.0}
        rows = [figures | AGENT | {"who": "ipvs-agent"}, figures | OTHER | {"who": "kube-proxy"}]
        other_size = self.START | {"services": "7 of 7"} | self.TOOLS

        assert [
            "complete tables from the API, s - 8 160 - - 20 -",
            "one changed endpoint from the API, s - 0.1 10 - - 100 -",
            "CPU of an idle minute, s - 0 0 - - - -",
            "memory, MB - 100 100 - - 1 -",
        ] == self.lines(**{"kube-proxy": rows, "start": [other_size]})[:4]

    def test_what_stands_alone_is_not_said(self):
        assert [] == self.lines(change=[{"services": "10 of 10", "median_ms": 1.0}], vips=[{"vips": 10}])


class TestChoice:
    def sizes(self, name, given=None, *, full=False):
        return list(command._chosen(name, given, full=full).args[0])

    @pytest.mark.parametrize("name", command.SIZED)
    def test_what_takes_long_is_asked_for(self, name):
        one = command.SIZED[name]

        assert list(one.sizes) == self.sizes(name)
        assert set(one.sizes) | set(one.large) == set(self.sizes(name, full=True))
        assert len(set(self.sizes(name, full=True))) == len(self.sizes(name, full=True))

    @pytest.mark.parametrize("name", command.SIZED)
    def test_chosen_sizes_are_those_alone(self, name):
        assert [Size(7, 7)] == self.sizes(name, [Size(7, 7)], full=True)

    def test_a_usual_run_is_over_in_an_hour(self):
        """40,000 IPv6 addresses take a quarter of one, 10,000 Services in kube-proxy half of one."""
        assert 2_000 >= max(size.services for one in command.SIZED.values() for size in one.sizes)


class TestIdle:
    def test_a_minute_is_made_of_whole_audits_without_the_start(self):
        stamps = [stamped.Stamp(0.0, 1.0), stamped.Stamp(30.0, 9.0), stamped.Stamp(75.0, 9.9)]

        assert 1.2 == pytest.approx(idle.minute_of(stamps))

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
        assert first.at <= second.at
        assert first.cpu <= second.cpu

    def test_before_the_first_there_is_none(self, tmp_path):
        assert [] == stamped.read(tmp_path / "audits")


class TestProcesses:
    def test_their_cpu_time_is_that_of_all_threads(self):
        before = bench.cpu(os.getpid())

        assert 0 < before <= time.process_time()

    def test_their_memory_is_in_mb(self):
        now, peak = bench.memory(os.getpid())

        assert 5 < now <= peak < 100_000


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


class TestPoints:
    LINE = plots.Line("agent", "start", "seconds")

    def points(self, *tables, line=LINE):
        return plots.points(line, [{"benchmark": name, "rows": rows} for name, rows in tables])

    def test_they_are_in_order_of_the_endpoints(self):
        rows = [{"services": "1,000 of 10", "seconds": 3.0}, {"services": "10 of 10", "seconds": 1.0}]

        assert [plots.Point(100, 1.0), plots.Point(10_000, 3.0)] == self.points(("start", rows))

    def test_every_size_is_there_and_those_of_other_endpoints_stand_apart(self):
        rows = [{"services": str(size), "seconds": 1.0} for size in (*sizes.SMALL, *sizes.LARGE)]

        found = self.points(("start", rows))

        assert len(rows) == len(found)
        assert {"40,000 of 2", "5,000 of 50", "1 of 5,000"} == {one.apart for one in found} - {""}

    def test_of_each_size_the_newest_figure_counts_if_there_is_one(self):
        old = [{"services": "10 of 10", "seconds": 1.0}, {"services": "100 of 10", "seconds": 2.0}]
        new = [{"services": "10 of 10", "seconds": 4.0}, {"services": "100 of 10", "seconds": None}]

        found = self.points(("start", old), ("start", new), ("status", old))

        assert [plots.Point(100, 4.0), plots.Point(1_000, 2.0)] == found

    def test_rows_from_before_a_figure_was_taken_have_none(self):
        assert [] == self.points(("start", [{"services": "10 of 10"}]))

    def test_others_are_passed_over_and_units_made_equal(self):
        line = plots.Line("99th", "kube-proxy", "ms", {"who": "ipvs-agent"}, 0.001)
        rows = [{"services": "10 of 10", "who": who, "ms": 500} for who in ("kube-proxy", "ipvs-agent")]

        assert [plots.Point(100, 0.5)] == self.points(("kube-proxy", rows), line=line)

    def test_vips_are_counted_by_themselves(self):
        line = plots.Line("routes", "vips IPV4", "add_ms", {"form": "route"})

        assert [plots.Point(500, 7.0)] == self.points(
            ("vips IPV4", [{"form": "route", "vips": 500, "add_ms": 7.0}]), line=line
        )

    def test_every_line_has_a_colour_of_its_own(self):
        assert len(plots.COLOURS) >= max(len(plot.lines) for plot in plots.PLOTS)

    def test_every_benchmark_of_several_sizes_is_drawn(self):
        drawn = {line.benchmark.split()[0] for plot in plots.PLOTS for line in plot.lines}

        assert set(command.SIZED) == drawn

    def test_a_cluster_that_stands_apart_is_named_once_and_above_all_lines(self):
        low, high = plots.Point(7, 1.0, "7 of 1"), plots.Point(7, 2.0, "7 of 1")

        assert [high] == list(plots._names([(self.LINE, [low]), (self.LINE, [high, plots.Point(9, 3.0)])]))


class TestScale:
    START: ClassVar = {"phase": "start", "lists from etcd": 0.0}
    RESTART: ClassVar = {
        "phase": "restart",
        "agents": 100,
        "requests": {"WatchList services": 100, "watch from a version endpointslices": 300},
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
                {"requests": {"WatchList endpointslices": 100, "list services": 4}},
                "4 times list services, where a watch has initial events",
                id="lists after a restart",
            ),
            pytest.param(
                {"requests": {"WatchList endpointslices": 101}},
                "101 times WatchList endpointslices by 100 agents",
                id="asks twice",
            ),
            pytest.param({"per_second": [9, 9, 61]}, "61 of 300 watches came in one second", id="a wave"),
            pytest.param({"caught up, last": 61.0}, "knew what is new after 61 s", id="late"),
        ],
    )
    def test_each_goal_can_be_missed(self, figures, words):
        (missed,) = self.misses(phase="this", **figures)

        assert missed.startswith("this: ")
        assert missed.endswith(words)

    def test_few_agents_make_no_wave(self):
        assert [] == self.misses(agents=49, requests={}, per_second=[0, 0, 100])
