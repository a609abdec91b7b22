"""Nonsense in the sources: one clear line each, everything else serves, none of it reaches a rule's text."""

from __future__ import annotations

import copy
import re

import pytest

from tests import objects
from tools.lab import talk

pytestmark = pytest.mark.long

SHELL = "$(touch /tmp/owned);'\"`|&"


def bad(thing, *path, value):
    """Return a copy of an object with one field changed."""
    thing = copy.deepcopy(thing)
    place = thing
    for step in path[:-1]:
        place = place[step]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return thing


def of_service(name, *path, value):
    return bad(objects.service(name, ("10.96.9.9",)), *path, value=value)


NONSENSE = {
    "no spec": (of_service("no-spec", "spec", value=KeyError), "no-spec"),
    "port": (of_service("bad-port", "spec", "ports", 0, "port", value=99999), "bad-port"),
    "cluster IP": (objects.service("bad-ip", ("not-an-ip",)), "bad-ip"),
    "type": (of_service("bad-type", "spec", "ports", value="eighty"), "bad-type"),
    "shell in a name": (of_service("x", "metadata", "name", value=SHELL), "metadata.name:"),
    "shell in a namespace": (of_service("y", "metadata", "namespace", value=SHELL), "metadata.namespace:"),
    "shell in an address": (objects.service("shell-ip", (SHELL,)), "shell-ip"),
    "loopback": (of_service("ext-1", "spec", "externalIPs", value=["127.0.0.1"]), "127.0.0.1"),
    "unspecified": (of_service("ext-2", "spec", "externalIPs", value=["0.0.0.0"]), "0.0.0.0"),
    "multicast": (of_service("ext-3", "spec", "externalIPs", value=["224.0.0.1"]), "224.0.0.1"),
    "family": (
        bad(
            objects.endpoint_slice("web", ["10.244.1.1"], suffix="bad"),
            "endpoints",
            0,
            "addresses",
            value=["fd00::1"],
        ),
        "web-bad",
    ),
    "no Service": (
        objects.endpoint_slice("of-no-service", ["10.244.1.77"]),
        "there is no Service shop/of-no-service to be served",
    ),
}


@pytest.fixture
def log_of_nonsense(node, lab, agent_log):
    """Serve one good Service among all nonsense, and return the log once it answers."""
    good = [
        objects.service("web"),
        objects.endpoint_slice("web", [lab.a.ipv4]),
    ]
    node.put(*(thing for thing, _ in NONSENSE.values()), *good)
    node.agent.start()
    node.wait_for(lambda: "serving" in agent_log())
    assert "a" == node.wait_for_answer(lab.client, talk.TCP, "10.96.0.80", 80).name
    return agent_log()


def test_each_is_said_once_and_clearly(log_of_nonsense):
    lines = [line for line in log_of_nonsense.splitlines() if "skipped" in line]

    for _, word in NONSENSE.values():
        assert 1 == len([line for line in lines if word in line]), word
    assert not [line for line in log_of_nonsense.splitlines() if "Traceback" in line]


def test_none_of_it_reaches_the_kernel(node, log_of_nonsense):
    assert [
        "-A -t 10.96.0.80:80 -s rr",
        # The parts of bad objects that are good.
        "-A -t 10.96.9.9:80 -s rr",
        "-a -t 10.96.0.80:80 -r 10.244.1.11:8080 -m -w 1",
    ] == node.virtual_servers()
    kernel = node.run("iptables-save") + node.run("ipset", "save") + node.run("ip", "addr")
    for word in ("touch", "owned", "127.0.0.1,tcp:80", "224.0.0.1", "10.244.1.77", "fd00::1"):
        assert word not in kernel


def test_a_service_that_turns_bad_loses_only_what_is_bad(node, lab, agent_log):
    two = objects.service("web", ports=((80, "TCP"), (81, "TCP")))
    behind = objects.endpoint_slice("web", [lab.a.ipv4], ((80, "TCP", 8080), (81, "TCP", 8080)))
    node.put(two, behind)
    node.agent.start()
    node.wait_for_answer(lab.client, talk.TCP, "10.96.0.80", 81)
    node.put(bad(two, "spec", "ports", 1, "port", value=0), behind)

    node.wait_for(lambda: "spec.ports[1].port" in agent_log())
    assert "a" == node.ask(lab.client, talk.TCP, "10.96.0.80", 80).name
    node.wait_for(lambda: not any(":81 " in line for line in node.virtual_servers()))


def test_a_broken_file_keeps_what_it_said_and_is_named_with_the_line(node, lab, agent_log):
    node.put(objects.service("web"), objects.endpoint_slice("web", [lab.a.ipv4]))
    node.agent.start()
    node.wait_for_answer(lab.client, talk.TCP, "10.96.0.80", 80)
    (node.manifests / "objects.json").write_text('{"kind": "List",\n"items": [\n{"kind": }\n]}')

    node.wait_for(lambda: re.search("objects.json.*line 3", agent_log()))
    assert "a" == node.ask(lab.client, talk.TCP, "10.96.0.80", 80).name
