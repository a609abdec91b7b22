"""Annotations that make no sense: the default, one line that says so, and nobody else notices."""

from __future__ import annotations

import pytest

from tests.integration.packets import crowd
from tests.integration.packets.crowd import SCHEDULER
from tests.integration.packets.stock import Stock, running
from tests.lab import Node
from tools.lab import talk
from tools.lab.asking import Asking

pytestmark = pytest.mark.long

SHELL = "$(touch /tmp/owned);'\"`|&"
EVER_BAD = {
    "empty": "",
    "blank": "  ",
    "unknown": "sometimes",
    "shell": SHELL,
    "control characters": "\x1b[2J\0\n",
    "10 kB": "x1=" * 3414,
}
BAD_DURATIONS = {
    "no unit": "60",
    "no such unit": "60parsecs",
    "negative": "-60s",
    "too long": "900000h",
    "beyond all numbers": f"{'9' * 400}s",
}
BAD_COUNTS = {
    "negative": "-1",
    "0": "0",
    "fraction": "100.5",
    "unit": "1k",
    "too high": "2147483648",
    "beyond all numbers": "9" * 5000,
}


# What a Service asks for rightly: in annotations, and in its spec.
NOTHING = ({}, {})
BY_SOURCE = ({SCHEDULER: "sh"}, {})
BY_MAGLEV = ({SCHEDULER: "mh"}, {})
AS_KUBE_ROUTER_HAS_IT = ({"kube-router.io/service.scheduler": "mh"}, {})
WEIGHTED = ({SCHEDULER: "wlc"}, {})
CAPPED = ({"ipvs-agent.io/max-connections": "1000"}, {})
AFFINE = ({}, {"sessionAffinity": "ClientIP"})
BASES = [NOTHING, BY_SOURCE, BY_MAGLEV, AS_KUBE_ROUTER_HAS_IT, WEIGHTED, CAPPED, AFFINE]
# By annotation: what the Service asks for rightly beside it, and what is bad for this one alone.
ANNOTATIONS = {
    SCHEDULER: (NOTHING, {"misspelt": "wr", "capitals": "LC"}),
    f"{SCHEDULER}.tcp-80": (NOTHING, {"a flag": "sh-port"}),
    "kube-router.io/service.scheduler": (NOTHING, {"misspelt": "lcc"}),
    "ipvs-agent.io/scheduler-flags": (
        BY_SOURCE,
        {"another's": "mh-port", "one of two": "sh-port,sh-prt", "none and one": "none,sh-port"},
    ),
    "ipvs-agent.io/scheduler-flags.tcp-80": (BY_MAGLEV, {"a number": "8"}),
    "kube-router.io/service.schedflags": (
        AS_KUBE_ROUTER_HAS_IT,
        {"a number": "16"},
    ),
    "ipvs-agent.io/weights": (
        WEIGHTED,
        {
            "no number": "local",
            "negative": "other=-1",
            "fraction": "other=1.5",
            "too high": "other=65536",
            "beyond all numbers": f"other={'9' * 5000}",
            "twice": "local=1,local=2",
            "misspelt": "locl=1",
            "one of two": "local=1,",
            "no name": "node:=1",
            "shell in a name": f"zone:{SHELL}=1",
        },
    ),
    "ipvs-agent.io/max-connections": (WEIGHTED, BAD_COUNTS),
    "ipvs-agent.io/resume-connections": (
        CAPPED,
        BAD_COUNTS | {"above the cap": "1001"},
    ),
    "ipvs-agent.io/affinity-mask": (
        AFFINE,
        {"too long": "33", "too long for IPv6": "24/129", "0": "0", "a mask": "255.255.255.0"},
    ),
    "ipvs-agent.io/affinity-shared": (AFFINE, {"capitals": "TRUE!", "a number": "2"}),
    "ipvs-agent.io/drain-timeout": (WEIGHTED, BAD_DURATIONS),
    "ipvs-agent.io/slow-start": (WEIGHTED, BAD_DURATIONS | {"too short": "0s"}),
}
CASES = [
    (key, what, value, base)
    for key, (base, bad) in ANNOTATIONS.items()
    for what, value in (EVER_BAD | bad).items()
]
STOCK = [Stock(number) for number, _ in enumerate(CASES, start=1)]
NEIGHBOURS = [Stock(254 - number) for number, _ in enumerate(BASES)]
"""Services that ask for the same without anything bad."""

cases = pytest.mark.parametrize(
    "number", range(len(CASES)), ids=[f"{key}-{what}" for key, what, _, _ in CASES]
)


def neighbours(lab):
    """The Services in which nothing is bad."""
    return [
        thing
        for stock, (annotations, spec) in zip(NEIGHBOURS, BASES, strict=True)
        for thing in crowd.asking(stock, lab.pods, annotations, **spec)
    ]


def services(lab, *, bad):
    """All others."""
    return [
        thing
        for stock, (key, _, value, (annotations, spec)) in zip(STOCK, CASES, strict=True)
        for thing in crowd.asking(stock, lab.pods, annotations | ({key: value} if bad else {}), **spec)
    ]


@pytest.fixture(scope="module")
def asking(lab):
    """Who asks the neighbours, begun by the node."""
    return []


@pytest.fixture(scope="module")
def node(lab, tmp_path_factory, asking):
    """A node whose agent serves the neighbours when all bad annotations come at once."""
    node = Node(lab, tmp_path_factory.mktemp("node"))
    node.put(*neighbours(lab))
    with running(node):
        try:
            for family in (4, 6):
                node.wait_for_answer(lab.client, talk.TCP, NEIGHBOURS[0].cluster_ip(family), 80)
                asking.append(Asking(lab.client, NEIGHBOURS[0].cluster_ip(family)))
            node.put(*services(lab, bad=True), file="bad.json")
            node.wait_for(lambda: all(said(node, number) for number in range(len(CASES))))
            everybody = [3] * 2 * len(NEIGHBOURS + STOCK)
            node.wait_for(lambda: everybody == [len(one) for one in crowd.weights(node).values()])
            for stock in (NEIGHBOURS[-1], STOCK[-1]):
                for family in (4, 6):
                    node.wait_for_answer(lab.client, talk.TCP, stock.cluster_ip(family), 80)
        finally:
            for one in asking:
                one.end()
        yield node


def said(node, number):
    """The lines of the log about a case."""
    subject = f"shop/{STOCK[number].name}: "
    return [line for line in node.log.read_text().splitlines() if subject in line]


def kernel_has(lines, stock):
    """A Service's virtual servers and real servers among all, with a word for its own addresses."""
    found = []
    for address in (f"-t {stock.cluster_ip(4)}:80 ", f"-t [{stock.cluster_ip(6)}]:80 "):
        found += [line.replace(address, "-t VIP:80 ") for line in lines if address in f"{line} "]
    return found


@pytest.fixture(scope="module")
def lines(node):
    """What the kernel has while all of it is there."""
    return node.virtual_servers()


@cases
def test_what_is_bad_gives_what_holds_without_it(node, lab, lines, number):
    *_, base = CASES[number]
    neighbour = NEIGHBOURS[BASES.index(base)]

    assert kernel_has(lines, neighbour) == kernel_has(lines, STOCK[number])
    for family in (4, 6):
        assert node.ask(lab.client, talk.TCP, STOCK[number].cluster_ip(family), 80).name in "abc"


@cases
def test_it_is_said_once_and_shortly(node, number):
    (line,) = said(node, number)

    assert f"metadata.annotations[{CASES[number][0]}]" in line
    assert line.isprintable()
    assert len(line) < 500


def test_it_is_shown_until_it_is_mended(node, lab):
    shown = [
        line
        for line in node.agent.command("status", "-o", "wide").splitlines()
        if line.startswith("shop/web-")
    ]
    try:
        node.put(*services(lab, bad=False), file="bad.json")
        node.wait_for(lambda: "shop/web-" not in node.agent.command("status", "-o", "wide"))
    finally:
        node.put(*services(lab, bad=True), file="bad.json")

    assert sorted(stock.name for stock in STOCK) == sorted(
        line.split(":")[0].removeprefix("shop/") for line in shown
    )


def test_neighbours_notice_nothing(node, asking):
    assert [[], []] == [one.failures for one in asking]
    assert all(set(one.pods) == {"a", "b", "c"} for one in asking)
    log = node.log.read_text()
    assert not [stock.name for stock in NEIGHBOURS if f"shop/{stock.name}: " in log]


def test_nothing_of_it_reaches_the_kernel(node):
    kernel = node.run("iptables-save") + node.run("ip6tables-save") + node.run("ipset", "save")

    assert "IPVS-AGENT" in kernel
    assert "owned" not in kernel
    assert "sometimes" not in kernel
