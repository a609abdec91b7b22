"""An agent that is told to end does so soon, whatever it is at."""

from __future__ import annotations

import threading

import pytest

from ipvs_agent.cli.outlets import started
from ipvs_agent.desired.compile import compile_service
from ipvs_agent.testing.builders import port, service
from tests.unit.test_reconciler import Bench

MANY = [service(f"a/s{number}", port(f"10.97.{number // 250}.{number % 250 + 1}")) for number in range(1200)]


class TestALargeStart:
    def test_it_leaves_off_between_two_slices(self):
        bench = Bench()
        apply = bench.kernel.ipvs.apply

        def applied(operations):
            bench.reconciler.stop()
            return apply(operations)

        bench.kernel.ipvs.apply = applied
        bench.put(*MANY).list_all()

        assert 500 == len(bench.tables())

    def test_it_leaves_off_while_it_compiles(self, monkeypatch):
        bench = Bench()
        compiled = []

        def compiling(a_service, *arguments):
            compiled.append(a_service)
            if len(compiled) == 10:
                bench.reconciler.stop()
            return compile_service(a_service, *arguments)

        monkeypatch.setattr("ipvs_agent.reconcile.planner.compile_service", compiling)
        bench.put(*MANY).list_all()

        assert (10, {}) == (len(compiled), bench.tables())

    def test_it_does_not_begin_to_remove(self):
        before = Bench().put(service()).list_all()
        after = Bench(before.kernel)
        after.kernel.vips.apply = lambda operations: after.reconciler.stop() or [None for _ in operations]
        after.put(service("shop/other", port("10.96.0.90"))).list_all()

        assert {"-t 10.96.0.80:80", "-t 10.96.0.90:80"} == after.tables().keys()

    @pytest.mark.parametrize("run", ["run", "run_once"])
    def test_it_ends(self, run):
        bench = Bench()
        bench.reconciler.stop()

        assert not getattr(bench.reconciler, run)()


class Part:
    """Stops when the others do."""

    def __init__(self, together, log):
        self.together = together
        self.log = log

    def start(self):
        self.log.append("start")

    def stop(self):
        self.together.wait()
        self.log.append("stop")


def test_parts_stop_together():
    log = []
    together = threading.Barrier(3, timeout=10)
    with started(*(Part(together, log) for _ in range(3))):
        assert 3 * ["start"] == log

    assert 3 * ["start"] + 3 * ["stop"] == log


def test_parts_that_were_started_stop_where_one_cannot_start():
    log = []
    alone = threading.Barrier(1)
    failing = Part(alone, log)
    failing.start = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError), started(Part(alone, log), failing, Part(alone, log)):
        pass

    assert ["start", "stop"] == log
