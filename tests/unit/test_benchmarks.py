"""What benchmarks share that needs no kernel: sizes, results, progress, plots."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from typing import ClassVar

import pytest

from benchmarks import __main__ as command
from benchmarks import (
    api,
    bench,
    cluster,
    peak,
    plots,
    progress,
    results,
    sizes,
    summary,
    table,
)
from benchmarks.sizes import Size
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
    """Keeps what was made and not removed."""

    def __init__(self):
        self.there = {}
        self.written = 0

    def seed(self, things):
        for thing in things:
            assert thing["metadata"]["name"] not in self.there
            self.there[thing["metadata"]["name"]] = thing
        self.written += len(things)

    def remove_slices(self, namespace):
        assert "bench" == namespace
        self.there = {name: one for name, one in self.there.items() if one["kind"] != "EndpointSlice"}


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


AGENT = {"tables_s": 8.0, "change_s": 0.1, "settled_mb": 100.0}
OTHER = {"tables_s": 160.0, "change_s": 10.0, "settled_mb": 100.0}


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


class TestProcesses:
    def test_their_cpu_time_is_that_of_all_threads(self):
        before = bench.cpu(os.getpid())

        assert 0 < before <= time.process_time()

    def test_their_memory_is_in_mb(self):
        now, peak = bench.memory(os.getpid())

        assert 5 < now <= peak < 100_000


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


class TestPeak:
    def test_an_agent_says_what_memory_it_had(self, monkeypatch, capsys):
        monkeypatch.setattr(peak, "ipvs_agent", len)

        assert 2 == peak.main(["run", "--once"])
        assert peak.read(f"a line of the log\n{capsys.readouterr().err}") > 1.0

    def test_without_that_there_is_no_figure(self):
        with pytest.raises(ValueError, match="did not say"):
            peak.read("a line of the log\n")
