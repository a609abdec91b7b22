"""An agent that ends, however it ends, leaves the kernel serving; the next one takes over what it left."""

from __future__ import annotations

import itertools
import random
import re
import signal
import time

import pytest

from ipvs_agent.desired.split import TAG, mark_of
from ipvs_agent.model import Protocol
from tests import objects
from tests.lab import PATIENCE
from tools.lab import talk
from tools.lab.asking import Asking

VIP, VIP6 = "10.96.0.80", "fd00:10:96::80"


def serving(*pods):
    """A dual-stack Service over pods, as objects."""
    return (
        objects.service("web", (VIP, VIP6), ((80, "TCP", 30080),), type="NodePort"),
        objects.endpoint_slice("web", [pod.ipv4 for pod in pods], suffix="4"),
        objects.endpoint_slice("web", [pod.ipv6 for pod in pods], suffix="6"),
    )


@pytest.fixture
def web(node, lab):
    """Have the node serve all pods; return the objects."""
    served = serving(*lab.pods)
    node.put(*served)
    return served


def started(node, log, says="serving"):
    """Start the agent and wait until it says so: by default, that it has read the whole kernel and serves."""
    before = log().count(f" {says} ")
    node.agent.start()
    node.wait_for(lambda: log().count(f" {says} ") > before)


# One on a VIP of ours, and marks that look almost like ours.
FOREIGN = (
    *(("-t", "203.0.113.9:80"), ("-t", f"{VIP}:8443")),
    *(("-f", str(mark)) for mark in (77, TAG, mark_of(1, Protocol.TCP) | 1 << 15)),
)
FOREIGN_SETS = ("KUBE-SOMETHING", "IPVS-AGENTS")
FOREIGN_CHAINS = (("nat", "PREROUTING"), ("mangle", "OUTPUT"), ("filter", "INPUT"), ("filter", "FORWARD"))


@pytest.fixture
def foreign(node):
    """Virtual servers, sets, chains and addresses of somebody else; returns a function that lists them."""
    for option, address in FOREIGN:
        node.run("ipvsadm", "-A", option, address, "-s", "lc")
        node.run("ipvsadm", "-a", option, address, "-r", "203.0.113.10:80", "-m", "-w", "7")
    for name in FOREIGN_SETS:
        node.run("ipset", "create", name, "hash:ip")
        node.run("ipset", "add", name, "203.0.113.9")
    for link in ("dummy9", "kube-ipvs0"):
        node.run("ip", "link", "add", link, "type", "dummy")
        node.run("ip", "addr", "add", "203.0.113.9/32", "dev", link)
    for tool, (table, chain) in itertools.product(("iptables", "ip6tables"), FOREIGN_CHAINS):
        node.run(tool, "-w", "-t", table, "-N", f"IPVS-AGENTS{chain}")
        node.run(tool, "-w", "-t", table, "-A", f"IPVS-AGENTS{chain}", "-p", "tcp", "-j", "RETURN")
        node.run(tool, "-w", "-t", table, "-I", chain, "-j", f"IPVS-AGENTS{chain}")

    def listed():
        rules = [
            line
            for tool in ("iptables-save", "ip6tables-save")
            for line in node.run(tool).splitlines()
            if line.startswith("-A") and "IPVS-AGENT-" not in line
        ]
        named = [f" {option} {address} " for option, address in FOREIGN]
        servers = [line for line in node.virtual_servers() if any(name in line for name in named)]
        sets = [node.run("ipset", "save", name) for name in FOREIGN_SETS]
        shown = node.run("ip", "-o", "addr", "show").splitlines()
        addresses = [line for line in shown if "203.0.113." in line]
        return rules, servers, sets, addresses

    yield listed
    for option, address in FOREIGN:
        node.run("ipvsadm", "-D", option, address)
    for name in FOREIGN_SETS:
        node.run("ipset", "destroy", name)
    for link in ("dummy9", "kube-ipvs0"):
        node.run("ip", "link", "del", link)
    for tool, (table, chain) in itertools.product(("iptables", "ip6tables"), FOREIGN_CHAINS):
        node.run(tool, "-w", "-t", table, "-D", chain, "-j", f"IPVS-AGENTS{chain}")
        node.run(tool, "-w", "-t", table, "-F", f"IPVS-AGENTS{chain}")
        node.run(tool, "-w", "-t", table, "-X", f"IPVS-AGENTS{chain}")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_ten_deaths_lose_no_request_and_touch_nothing_of_others(
    node, lab, web, foreign, agent_log, in_background
):
    """SIGKILL and SIGTERM come at any moment of start, sync or rest, while pod b is taken out and put back.

    Every other one of each meets an agent that has worked, however slow this machine is.
    """
    before = foreign()
    rules, servers, *_ = before
    assert (len(FOREIGN_CHAINS) * 4, len(FOREIGN) * 2) == (len(rules), len(servers))
    began = time.monotonic()
    started(node, agent_log)
    longest = time.monotonic() - began + 2  # about half the kills meet agents that do not serve yet
    asking = [
        in_background(Asking(*where)) for where in ((lab.a, VIP), (lab.client, VIP), (lab.client, VIP6))
    ]
    manifests = itertools.cycle([serving(lab.a, lab.c), web])
    chance = random.Random(10)
    for number in range(10):
        met_at_work = (lambda: " applied " in last_life(agent_log())) if number % 2 else (lambda: True)
        rewrite(node, manifests, seconds=chance.uniform(0, longest), until=met_at_work)
        node.agent.end(signal.SIGKILL if number % 4 < 2 else signal.SIGTERM)
        started(node, agent_log, says="starting")
    node.put(*web)
    node.wait_for(lambda: node.pods({"a", "b", "c"}, lab.client, VIP) == {"a", "b", "c"})
    node.wait_for(lambda: all({"a", "b", "c"} == set(one.pods) and len(one.pods) > 100 for one in asking))
    for one in asking:
        one.end()

    assert [[], [], []] == [one.failures for one in asking]
    assert "Traceback" not in agent_log()
    assert before == foreign()
    node.agent.end()
    node.agent.command("cleanup")
    assert before == foreign()
    assert [] == node.leftovers()


def last_life(log):
    """What the agent that was started last has said."""
    return log.rpartition(" starting ")[2]


def rewrite(node, manifests, seconds, until):
    """Let the manifests change, again and again, for so long and until a condition holds.

    Each change is old enough to be read.
    """
    began = time.monotonic()
    while (left := began + seconds - time.monotonic()) > 0 or not until():
        assert left > -PATIENCE
        node.put(*next(manifests))
        time.sleep(min(left, 1.2) if left > 0 else 1.2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_within_two_seconds_and_the_kernel_serves_on(node, lab, web, agent_log, number):
    for _ in range(5):  # a busy machine may be slow once
        started(node, agent_log)
        if (seconds := node.agent.end(number)) < 2:
            break

    assert seconds < 2
    assert {"a", "b", "c"} == {node.ask(lab.client, talk.TCP, VIP, 80).name for _ in range(6)}


def test_a_restart_writes_nothing_where_nothing_differs(node, lab, web, agent_log):
    started(node, agent_log)
    for _ in range(4):
        node.ask(lab.client, talk.TCP, VIP, 80)
    counted = _counters(node)
    node.agent.end(signal.SIGKILL)
    written = len(agent_log())
    started(node, agent_log)

    assert not re.findall(r"applied|foundation laid", agent_log()[written:])
    # A rule that is written anew counts from zero.
    assert all(now >= then > 0 for then, now in zip(counted, _counters(node), strict=True))


def _counters(node):
    lines = node.run("iptables-save", "-c", "-t", "nat").splitlines()
    return [
        int(line[1:].split(":")[0])
        for line in lines
        if "-A PREROUTING -j IPVS-AGENT" in line and line[0] == "["
    ]


@pytest.mark.long
def test_what_is_superfluous_goes_once_all_sources_were_read(node, lab, web, agent_log):
    started(node, agent_log)
    node.agent.end(signal.SIGKILL)
    node.put()
    node.agent.start()

    node.wait_for(lambda: node.virtual_servers() == [])
    node.wait_for(lambda: VIP not in node.run("ip", "addr", "show", "dev", "kube-ipvs0"))


@pytest.mark.long
def test_nothing_goes_while_a_source_cannot_be_read(node, lab, web, agent_log):
    started(node, agent_log)
    there = node.virtual_servers()
    node.agent.end(signal.SIGKILL)
    (node.manifests / "objects.json").write_text('{"kind": "List", "items": [{"kind": "Serv')
    node.agent.start()

    node.wait_for(lambda: "objects.json" in agent_log())
    assert there == node.virtual_servers()
    assert {"a", "b", "c"} == {node.ask(lab.client, talk.TCP, VIP, 80).name for _ in range(6)}
    node.put(*web)
    node.wait_for(lambda: "can be read again" in agent_log())
    assert there == node.virtual_servers()


def test_cleanup_says_what_it_will_do_and_does_it(node, web, agent_log):
    started(node, agent_log)
    node.agent.end()
    there = node.virtual_servers()
    said = node.agent.command("cleanup", "--dry-run")

    assert there == node.virtual_servers()
    assert f"ipvsadm -D -t {VIP}:80\n" in said
    assert f"ip addr del {VIP}/32 dev kube-ipvs0\n" in said
    assert "ipset destroy IPVS-AGENT-4-SERVICES\n" in said
    assert "rm /run/ipvs-agent/notes.json\n" in said
    assert said == node.agent.command("cleanup")
    assert [] == node.virtual_servers() + node.leftovers()
    assert "kube-ipvs0" not in node.run("ip", "link")
    assert "" == node.agent.command("cleanup")
