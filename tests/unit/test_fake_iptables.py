from __future__ import annotations

import pytest

from ipvs_agent import errors
from ipvs_agent.addresses import Family
from ipvs_agent.model import IpSet, SetType
from ipvs_agent.testing.fake_ipsets import FakeIpSets
from ipvs_agent.testing.fake_iptables import FakeIptables
from tests.contract.iptables import IptablesContract


class TestFakeIptables(IptablesContract):
    @pytest.fixture
    def ipsets(self):
        return FakeIpSets()

    @pytest.fixture
    def iptables(self, ipsets):
        return FakeIptables(ipsets)

    @pytest.mark.parametrize(
        "line",
        [
            pytest.param("-A INPUT -m bpf --bytecode x -j DROP", id="match"),
            pytest.param("-A INPUT -s 10.1.2.3/8 -j DROP", id="host bits"),
            pytest.param("-A INPUT -s 10.1.2.3 -j DROP", id="address without prefix"),
            pytest.param("-A INPUT -m mark --mark 1 -j DROP", id="decimal mark"),
            pytest.param("-A INPUT -m mark --mark 0x01 -j DROP", id="mark with a leading zero"),
            pytest.param("-A INPUT -m mark --mark 0x1/0xffffffff -j DROP", id="mask of all bits"),
            pytest.param("-A INPUT -j MARK --set-xmark 0x1", id="MARK without a mask"),
            pytest.param("-A INPUT -i + -j DROP", id="any interface"),
            pytest.param("-A INPUT -i eth0 -s 10.0.0.0/8 -j DROP", id="order of options"),
            pytest.param("-A INPUT -m mark --mark 0x1 -i eth0 -j DROP", id="option behind a match"),
            pytest.param("-A INPUT -m set --match-set PORTS dst -j DROP", id="set that never matches"),
            pytest.param("-R INPUT 1 -j DROP", id="replacement"),
            pytest.param("[1:2] -A INPUT -j DROP", id="counters"),
        ],
    )
    def test_what_is_not_modelled_is_refused_as_such(self, iptables, ipsets, line):
        ipsets.create(IpSet("PORTS", SetType.HASH_IP_PORT, Family.IPV4))

        with pytest.raises(NotImplementedError):
            iptables.restore(Family.IPV4, f"*filter\n{line}\nCOMMIT\n")

    def test_a_set_without_marks_has_none_to_give(self, iptables, ipsets):
        ipsets.create(IpSet("PORTS", SetType.HASH_IP_PORT, Family.IPV4))

        with pytest.raises(NotImplementedError):
            iptables.restore(
                Family.IPV4, "*mangle\n-A INPUT -j SET --map-set PORTS dst,dst --map-mark\nCOMMIT\n"
            )

    def test_a_family_that_is_not_usable_fails(self, iptables):
        iptables.usable = frozenset({Family.IPV4})

        with pytest.raises(errors.CommandFailed):
            iptables.save(Family.IPV6)
        assert {Family.IPV6} == set(iptables.refusals())
        assert [Family.IPV4] == [rules.family for rules in iptables.all_rules()]

    def test_a_flavour_that_is_not_there_fails(self, iptables):
        with pytest.raises(errors.CommandFailed):
            iptables.restore(Family.IPV4, "*filter\nCOMMIT\n", "-legacy")

    def test_an_old_tool_does_not_know_random_fully(self, iptables):
        iptables.random_fully = False

        assert iptables.supports_random_fully()
        with pytest.raises(errors.CommandFailed):
            iptables.restore(Family.IPV4, "*nat\n-A POSTROUTING -j MASQUERADE --random-fully\nCOMMIT\n")
        assert not iptables.supports_random_fully()
