from __future__ import annotations

import pytest

from ipvs_agent import errors
from ipvs_agent.addresses import Family
from ipvs_agent.model import IpSet, SetMember, SetType
from ipvs_agent.operations import AddMember
from ipvs_agent.testing.fake_ipsets import FakeIpSets
from tests.contract.ipsets import HTTP, PORTS, VIP, IpSetsContract


class TestFakeIpSets(IpSetsContract):
    @pytest.fixture
    def ipsets(self):
        return FakeIpSets()

    def test_a_set_that_a_rule_refers_to_is_busy(self, ipsets):
        ipsets.create(PORTS)
        ipsets.referrers["iptables"] = frozenset({"PORTS"})

        with pytest.raises(errors.Busy):
            ipsets.destroy("PORTS")

    def test_a_set_that_somebody_is_listing_is_busy_until_he_has_done(self, ipsets):
        ipsets.create(PORTS)
        ipsets.create(IpSet("NEXT", SetType.HASH_IP_PORT, Family.IPV4))
        ipsets.listed = {"PORTS"}
        for ask in (
            lambda: ipsets.destroy("PORTS"),
            lambda: ipsets.swap("PORTS", "NEXT"),
            lambda: ipsets.swap("NEXT", "PORTS"),
        ):
            with pytest.raises(errors.Busy):
                ask()

        ipsets.listed = set()
        ipsets.swap("PORTS", "NEXT")
        ipsets.destroy("PORTS")

    def test_a_foreign_set_is_listed_without_a_type(self, ipsets):
        ipsets.add_foreign("theirs")

        assert ipsets.sets() == {"theirs": None}

    def test_the_members_of_a_foreign_set_cannot_be_read(self, ipsets):
        ipsets.add_foreign("theirs")

        with pytest.raises(errors.InvalidRequest):
            ipsets.members("theirs")

    def test_a_range_without_prefix_is_not_modelled(self, ipsets):
        ipsets.create(IpSet("RANGES", SetType.HASH_IP_PORT_NET, Family.IPV4))

        with pytest.raises(NotImplementedError):
            ipsets.apply([AddMember(SetMember("RANGES", VIP, 6, 80, VIP))])

    def test_batches_are_recorded(self, ipsets):
        ipsets.create(PORTS)
        ipsets.apply([AddMember(HTTP)])

        assert [[AddMember(HTTP)]] == ipsets.batches
