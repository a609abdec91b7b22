"""A set that is put in the place of a smaller one, and what stays where that fails."""

from __future__ import annotations

import errno

import msgspec
import pytest

from ipvs_agent.addresses import Family
from ipvs_agent.desired import sets
from ipvs_agent.desired.sets import Purpose
from ipvs_agent.errors import Busy, KernelError
from ipvs_agent.operations import AddMember
from ipvs_agent.reconcile import growth
from ipvs_agent.testing.builders import address
from ipvs_agent.testing.fake_ipsets import FakeIpSets

(SMALL,) = (
    msgspec.structs.replace(one, capacity=2)
    for one in sets.sets_of(Family.IPV4)
    if one.name == sets.set_name(Purpose.VIPS, Family.IPV4)
)
LARGE = msgspec.structs.replace(SMALL, capacity=4)
MEMBERS = {sets.vip_member(Family.IPV4, address(text)) for text in ("10.96.0.1", "10.96.0.2")}


class IpSets(FakeIpSets):
    """Sets of which somebody lists every one that can be destroyed: destroying one is refused."""

    def __init__(self):
        super().__init__()
        self.is_listed = False
        self.swap_error = None

    def destroy(self, name):
        if self.is_listed and name in self.sets():
            raise Busy(f"ipset destroy {name}: somebody is listing the set", errno.EBUSY)
        super().destroy(name)

    def swap(self, one, other):
        if self.swap_error:
            raise self.swap_error
        super().swap(one, other)


@pytest.fixture
def ipsets():
    ipsets = IpSets()
    ipsets.create(SMALL)
    ipsets.apply([AddMember(member) for member in MEMBERS])
    return ipsets


def test_the_larger_set_has_the_same_members_and_nothing_else_is_left(ipsets):
    growth.replace(LARGE, MEMBERS, ipsets)

    assert {LARGE.name: LARGE} == ipsets.sets()
    assert MEMBERS == ipsets.members(LARGE.name)


def test_a_set_has_grown_though_what_it_was_cannot_be_destroyed(ipsets):
    ipsets.is_listed = True

    growth.replace(LARGE, MEMBERS, ipsets)

    assert LARGE == ipsets.sets()[LARGE.name]
    assert MEMBERS == ipsets.members(LARGE.name)


def test_what_could_not_be_destroyed_goes_when_the_set_grows_again(ipsets):
    ipsets.is_listed = True
    growth.replace(LARGE, MEMBERS, ipsets)
    ipsets.is_listed = False
    larger = msgspec.structs.replace(LARGE, capacity=8)

    growth.replace(larger, MEMBERS, ipsets)

    assert {larger.name: larger} == ipsets.sets()


def test_why_a_set_has_not_grown_is_not_hidden_by_what_cannot_be_destroyed(ipsets):
    ipsets.is_listed = True
    ipsets.swap_error = KernelError("ipset swap: no")

    with pytest.raises(KernelError, match=r"^ipset swap: no$"):
        growth.replace(LARGE, MEMBERS, ipsets)

    assert SMALL == ipsets.sets()[SMALL.name]


def test_a_set_that_cannot_take_all_members_stays_as_it_was(ipsets):
    with pytest.raises(KernelError, match="full"):
        growth.replace(msgspec.structs.replace(SMALL, capacity=1), MEMBERS, ipsets)

    assert {SMALL.name: SMALL} == ipsets.sets()
    assert MEMBERS == ipsets.members(SMALL.name)
