"""iptables on the real kernel; user-mode Linux has the legacy flavour, a cloud kernel both."""

from __future__ import annotations

import contextlib
import subprocess

import pytest

from ipvs_agent.addresses import Family
from ipvs_agent.kernel.ipsets import NetlinkIpSets
from ipvs_agent.kernel.iptables import NodeIptables
from tests.contract.iptables import IptablesContract, present


@pytest.fixture
def ipsets(namespace):
    with contextlib.closing(NetlinkIpSets()) as ipsets:
        yield ipsets


@pytest.fixture(scope="module")
def node_iptables():
    return NodeIptables()  # finds out once, at its first use, which tools work


@pytest.fixture
def iptables(namespace, node_iptables):
    return node_iptables


class TestNodeIptables(IptablesContract):
    def test_rules_are_where_the_tools_of_the_node_see_them(self, iptables):
        iptables.restore(Family.IPV4, "*filter\n-A INPUT -s 192.0.2.0/24 -j DROP\nCOMMIT\n")

        shown = subprocess.run(["iptables", "-S", "INPUT"], capture_output=True, text=True, check=True)
        assert "-A INPUT -s 192.0.2.0/24 -j DROP" in shown.stdout

    def test_rules_made_by_others_are_kept_and_saved(self, iptables):
        subprocess.run(["iptables", "-A", "FORWARD", "-s", "192.0.2.1", "-j", "ACCEPT"], check=True)

        iptables.restore(Family.IPV4, "*filter\n:OURS - [0:0]\nCOMMIT\n")

        assert {"filter": {"FORWARD": ["-s 192.0.2.1/32 -j ACCEPT"], "OURS": []}} == present(iptables)
