"""What was measured in one run side by side: the floor, the agent, kube-proxy and the tools, with ratios."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks import contenders, results, table

Run = Mapping[str, Sequence[results.Row]]
"""The rows by the name of their benchmark."""
Figure = Callable[[Run, str], float | None]
"""Gets a figure for a size, in words; None: not measured."""


def _of(benchmark: str, *names: str, who: str = "") -> Figure:
    """Return what gets a figure, or the sum of some."""

    def figure(run: Run, services: str) -> float | None:
        for row in run.get(benchmark, ()):
            if row["services"] == services and row.get("who", "") == who:
                found = [row[name] for name in names]
                return None if None in found else sum(found)
        return None

    return figure


def _nobody(_run: Run, _services: str) -> None:
    return None


class Work(NamedTuple):
    """Something that several can do."""

    name: str
    agent: Figure
    floor: Figure = _nobody
    kube_proxy: Figure = _nobody
    tools: Figure = _nobody


def _beside_kube_proxy(name: str, figure: str, floor: Figure = _nobody) -> Work:
    agent, other = (_of("kube-proxy", figure, who=who) for who in (contenders.AGENT, contenders.KUBE_PROXY))
    return Work(name, agent, floor=floor, kube_proxy=other)


_FLOOR = _of("start", "floor")
_TOOLS = _of("start", "ipvsadm", "ipset", "ip")

WORKS = (
    Work("start from JSON in hand, s", _of("start", "in_hand"), floor=_FLOOR, tools=_TOOLS),
    Work("start, whole process, s", _of("start", "agent"), floor=_FLOOR, tools=_TOOLS),
    _beside_kube_proxy("complete tables from the API, s", "tables_s", _FLOOR),
    _beside_kube_proxy("one changed endpoint from the API, s", "change_s"),
    _beside_kube_proxy("CPU of one changed endpoint, s", "change_cpu_s"),
    _beside_kube_proxy("CPU of an idle minute, s", "idle_cpu_s"),
    _beside_kube_proxy("memory, MB", "settled_mb"),
    Work("status -Ln, s", _of("status", "agent"), tools=_of("status", "ipvsadm")),
)


def show(run: Run) -> None:
    """Print the table, where there is something beside something else."""
    if rows := list(lines(run)):
        heads = ("floor", "ipvs-agent", "kube-proxy", "tools")
        ratios = ("agent / floor", "kube-proxy / agent", "tools / agent")
        table.show("Side by side in this run", ("", *heads, *ratios), rows)


def lines(run: Run) -> Iterator[tuple[str, ...]]:
    """Yield a line for each size and work that the agent and somebody else have done."""
    sizes = dict.fromkeys(row["services"] for rows in run.values() for row in rows if "services" in row)
    for services in sizes:
        for work in WORKS:
            agent, *others = (
                get(run, services) for get in (work.agent, work.floor, work.kube_proxy, work.tools)
            )
            if agent is None or others == [None, None, None]:
                continue
            floor, kube_proxy, tools = others
            ratios = (_ratio(agent, floor), _ratio(kube_proxy, agent), _ratio(tools, agent))
            yield f"{services}: {work.name}", *map(table.cell, (floor, agent, kube_proxy, tools, *ratios))


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None
