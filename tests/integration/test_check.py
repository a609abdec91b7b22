"""ipvs-agent check on the lab's node, and on one that lacks something."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import lab as the_lab
from tools.lab.agent import ROOT
from tools.lab.network import Lab

WITHOUT_RANGES = the_lab.CONFIG.replace("clusterCIDR", "somethingElse")
MARK = "-j MARK --set-xmark 0x0/0xf0000"


@pytest.fixture(scope="module")
def lab():
    with Lab() as lab:
        yield lab


@pytest.fixture
def node(lab, tmp_path):
    """Return a function that runs a command on the lab's node."""

    def run(*command):
        in_lab = ("ip", "netns", "exec", lab.node.namespace, *command)
        return subprocess.run(in_lab, cwd=ROOT, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def check(node, tmp_path):
    """Return a function that runs check with a configuration: status, and lines without the mends."""

    def run(text=the_lab.CONFIG):
        config = tmp_path / "config.yaml"
        config.write_text(text)
        done = node(sys.executable, "-m", "ipvs_agent", "check", "--node-name", "node-a", "--config", config)
        assert done.stderr == ""
        lines = done.stdout.splitlines()
        return done.returncode, [line for line in lines if not line.startswith(" ")]

    return run


@pytest.fixture
def rules(node):
    """Return a function that runs iptables, and remove what it was told to add behind the test."""
    added = []

    def add(*words):
        assert node("iptables", *words).returncode == 0
        added.append(words)

    yield add
    for words in reversed(added):
        undo = {"-A": "-D", "-N": "-X"}
        assert node("iptables", *(undo.get(word, word) for word in words)).returncode == 0


def test_nothing_is_loaded_and_nothing_is_changed(check, node):
    """The first test here, since what one check loaded another would find there."""

    def state():
        modules = {line.split()[0] for line in Path("/proc/modules").read_text().splitlines()}
        settings = node("sysctl", "--all", "--pattern", "^net").stdout
        return modules, settings, node("ip", "-oneline", "link").stdout

    before = state()
    check()

    assert before == state()


def test_a_node_that_has_all(check):
    assert (0, ["node-a: nothing is wrong"]) == check()


def test_without_a_range_for_pods(check):
    status, (line,) = check(WITHOUT_RANGES)

    assert status == 1
    assert line.startswith("warning: clusterCIDR: says nothing of IPv4 and IPv6, ")


def test_a_rule_as_calico_writes_it(check, rules):
    rules("-N", "cali-INPUT")
    rules("-A", "cali-INPUT", "-m", "comment", "--comment", "cali:46gVAqzWLjH8U4O2", *MARK.split())
    rules("-A", "INPUT", "-m", "comment", "--comment", "cali:Cz_u1IQiXIMmKD4c", "-j", "cali-INPUT")

    status, (line,) = check()

    assert status == 1
    assert f"-t filter -A cali-INPUT -m comment --comment cali:46gVAqzWLjH8U4O2 {MARK}`" in line.replace(
        '"', ""
    )


def test_a_virtual_server_of_others(check, node):
    subprocess.run(["modprobe", "ip_vs"], check=True)
    assert node("ipvsadm", "-A", "-t", "192.0.2.1:80", "-s", "rr").returncode == 0
    try:
        status, (line,) = check()
    finally:
        assert node("ipvsadm", "-D", "-t", "192.0.2.1:80").returncode == 0

    assert status == 1
    assert line.startswith("warning: virtual servers: not ours: `-t 192.0.2.1:80`; ")


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        pytest.param("dummy", "warning: kube-ipvs0: not made by ipvs-agent, ", id="of kube-proxy"),
        pytest.param("bridge", "error: kube-ipvs0: not a dummy interface but bridge", id="of nobody we know"),
    ],
)
def test_a_link_of_others(check, node, kind, line):
    subprocess.run(["modprobe", kind], check=True)
    assert node("ip", "link", "add", "kube-ipvs0", "type", kind).returncode == 0
    try:
        status, (found,) = check()
    finally:
        assert node("ip", "link", "delete", "kube-ipvs0").returncode == 0

    assert (1, True) == (status, found.startswith(line))


def test_settings_that_cannot_be_written(node, tmp_path):
    """As in a container that is not privileged: /proc/sys is mounted read-only."""
    config = tmp_path / "config.yaml"
    config.write_text(the_lab.CONFIG)
    check = f"{sys.executable} -m ipvs_agent check --config {config}"
    done = node(
        *("unshare", "--mount", "sh", "-c"),
        f"echo 0 > /proc/sys/net/ipv4/ip_forward && mount --bind -o ro /proc/sys /proc/sys && {check}",
    )

    assert done.returncode == 1
    assert "error: sysctl net.ipv4.ip_forward: 0, must be 1, and cannot be written\n" in done.stdout


def test_the_node_of_a_running_agent_is_all_right(lab, check, node, tmp_path):
    """Its own rules, sets, link and virtual servers are no findings."""
    manifests = tmp_path / "manifests"
    shutil.copytree(ROOT / "examples" / "manifests", manifests)
    config = tmp_path / "config.yaml"
    config.write_text(the_lab.CONFIG)
    agent = [sys.executable, "-m", "ipvs_agent"]
    run = ["run", "--once", "--node-name", "node-a", "--manifests", manifests, "--config", config]
    try:
        assert node(*agent, *run).returncode == 0

        assert (0, ["node-a: nothing is wrong"]) == check()
    finally:
        assert node(*agent, "cleanup").returncode == 0
