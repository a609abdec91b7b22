"""What is there before the first virtual server, and what of it may fail."""

from __future__ import annotations

import errno

import pytest

from ipvs_agent.addresses import Family, parse_network
from ipvs_agent.desired import sets
from ipvs_agent.desired.sets import Purpose
from ipvs_agent.desired.shim import Masquerade
from ipvs_agent.errors import Busy, CommandFailed, KernelError, MissingModule
from ipvs_agent.observed import Hook, NativeChain
from ipvs_agent.operations import AddMember
from ipvs_agent.reconcile import foundation
from ipvs_agent.reconcile.foundation import Needs
from ipvs_agent.testing.builders import key
from ipvs_agent.testing.fake_kernel import FakeKernel

NEEDS = Needs()
BOTH, IPV4, IPV6 = frozenset(Family), frozenset({Family.IPV4}), frozenset({Family.IPV6})
INSIDE = Needs(
    masquerade=Masquerade(cluster_networks=(parse_network("10.244.0.0/16"), parse_network("fd00:10::/32")))
)


@pytest.fixture
def kernel():
    return FakeKernel()


class TestRulesThatSpoilMarks:
    """What others write into the marks of packets, so that clients inside cannot be told for certain."""

    FILTER = "*filter\n:{chain} ACCEPT [0:0]\n-A {chain} -j MARK --set-xmark {mark}\nCOMMIT\n"
    TO_MARK = "-j SET --map-set IPVS-AGENT-4-MARKS dst,dst --map-mark"

    @pytest.mark.parametrize(
        ("chain", "mark", "undivided", "count"),
        [
            pytest.param("FORWARD", "0x1/0xff", frozenset(), 2, id="not on the way"),
            pytest.param("OUTPUT", "0xc00/0xf00", frozenset(), 2, id="bits that are not ours"),
            pytest.param("INPUT", "0x100000/0x100000", IPV4, 2, id="before IPVS reads them"),
            pytest.param("OUTPUT", "0x1/0xff", IPV4, 0, id="after that: none is written"),
        ],
    )
    def test_what_becomes_of_it(self, kernel, chain, mark, undivided, count):
        kernel.iptables.restore(Family.IPV4, self.FILTER.format(chain=chain, mark=mark))

        ground = foundation.lay(kernel, INSIDE)

        assert undivided == ground.undivided
        assert count == kernel.iptables.save(Family.IPV4).count(self.TO_MARK)
        assert () == foundation.lay(kernel, INSIDE, ground).written

    @pytest.mark.parametrize(
        ("hook", "undivided", "count"),
        [
            pytest.param(Hook.INPUT, IPV4, 2, id="before IPVS reads them"),
            pytest.param(Hook.OUTPUT, IPV4, 0, id="after that: none is written"),
            pytest.param(2, frozenset(), 2, id="not on the way"),
        ],
    )
    def test_what_only_nftables_shows_counts_too(self, kernel, hook, undivided, count):
        chain = NativeChain(IPV4, "ip wall", "marks", hook, 0, marks=1)
        kernel.nftables.lay([chain])

        ground = foundation.lay(kernel, INSIDE)

        assert undivided == ground.undivided
        assert count == kernel.iptables.save(Family.IPV4).count(self.TO_MARK)
        kernel.nftables.lay([])
        assert frozenset() == foundation.lay(kernel, INSIDE, ground).undivided

    def test_what_cannot_be_read_is_as_it_was_and_said(self, kernel, monkeypatch):
        kernel.nftables.lay([NativeChain(IPV4, "ip wall", "marks", Hook.INPUT, 0, marks=1)])
        spoilt = foundation.lay(kernel, INSIDE)
        fresh = foundation.lay(FakeKernel(), INSIDE)

        def refuse():
            raise KernelError("netlink dump: no")

        monkeypatch.setattr(kernel.nftables, "chains", refuse)
        found = [foundation.lay(kernel, INSIDE, before) for before in (spoilt, fresh, None)]

        assert [IPV4, frozenset(), frozenset()] == [ground.undivided for ground in found]
        assert {"netlink dump: no"} == {ground.blind for ground in found}
        assert 2 == kernel.iptables.save(Family.IPV4).count(self.TO_MARK)

    def test_they_count_where_the_tools_do_not_know_random_ports(self, kernel):
        kernel.iptables.random_fully = False
        kernel.nftables.lay([NativeChain(IPV4, "ip wall", "marks", Hook.OUTPUT, 0, marks=1)])

        assert IPV4 == foundation.lay(kernel, INSIDE).undivided


class TestRandomPorts:
    """MASQUERADE --random-fully, which old tools do not know."""

    @pytest.mark.parametrize("is_known", [True, False])
    def test_rules_have_it_where_the_tools_know_it(self, kernel, is_known):
        kernel.iptables.random_fully = is_known

        ground = foundation.lay(kernel, INSIDE)

        assert ("IPV4 rules", "IPV6 rules") == ground.written[-2:]
        for family in Family:
            assert is_known == ("--random-fully" in kernel.iptables.save(family))
        assert () == foundation.lay(kernel, INSIDE, ground).written

    def test_what_old_tools_refuse_for_another_reason_is_told(self, kernel, monkeypatch):
        kernel.iptables.random_fully = False
        refuse(kernel, monkeypatch, "restore", Family.IPV4)

        with pytest.raises(CommandFailed, match="not now"):
            foundation.lay(kernel, INSIDE)


class TestDrafts:
    """Sets that were to take the place of smaller ones, of an agent that was killed at that."""

    DRAFTS = tuple(sets.draft(sets.sets_of(family)[-2]) for family in Family)

    @pytest.fixture
    def drafts(self, kernel):
        for draft in self.DRAFTS:
            kernel.ipsets.create(draft)
        return {draft.name for draft in self.DRAFTS}

    def test_they_go_before_anything_of_this_process_can_grow(self, kernel, drafts):
        kernel.ipsets.add_foreign("SOMEBODYS-NEW")

        ground = foundation.lay(kernel, NEEDS)

        assert not drafts & kernel.ipsets.sets().keys()
        assert "SOMEBODYS-NEW" in kernel.ipsets.sets()
        assert {f"set {name} removed" for name in drafts} <= set(ground.written)

    def test_later_they_are_this_process_s_own(self, kernel):
        before = foundation.lay(kernel, NEEDS)
        kernel.ipsets.create(self.DRAFTS[0])

        ground = foundation.lay(kernel, NEEDS, before)

        assert self.DRAFTS[0].name in kernel.ipsets.sets()
        assert ground.written == ()

    def test_one_that_somebody_lists_keeps_nobody_from_starting(self, kernel, drafts, monkeypatch):
        destroy = kernel.ipsets.destroy

        def refuse(name):
            if name == self.DRAFTS[0].name:
                raise Busy(f"ipset destroy {name}: somebody is listing the set", errno.EBUSY)
            destroy(name)

        monkeypatch.setattr(kernel.ipsets, "destroy", refuse)

        ground = foundation.lay(kernel, NEEDS)

        assert drafts & kernel.ipsets.sets().keys() == {self.DRAFTS[0].name}
        assert f"set {self.DRAFTS[0].name} removed" not in ground.written


class TestModulesThatOnlySomeServicesNeed:
    def test_they_are_loaded(self, kernel):
        ground = foundation.lay(kernel, NEEDS)

        assert "ip_vs_sh" in kernel.modules.loaded
        assert not ground.missing_modules

    def test_without_them_all_else_is_there(self, kernel):
        kernel.modules.missing.add("ip_vs_sh")

        ground = foundation.lay(kernel, NEEDS)

        assert {"ip_vs_sh"} == ground.missing_modules
        assert frozenset(Family) == ground.families

    def test_later_they_are_looked_for_and_not_loaded(self, kernel, monkeypatch):
        kernel.modules.missing.add("ip_vs_sh")
        before = foundation.lay(kernel, NEEDS)
        asked = []
        monkeypatch.setattr(kernel.modules, "load", lambda *names: asked.extend(names))
        monkeypatch.setattr(kernel.modules, "try_to_load", lambda *names: asked.extend(names))

        assert {"ip_vs_sh"} == foundation.lay(kernel, NEEDS, before).missing_modules
        kernel.modules.loaded.add("ip_vs_sh")  # by somebody else

        assert not foundation.lay(kernel, NEEDS, before).missing_modules
        assert "ip_vs_sh" not in asked


class TestSchedulers:
    def test_the_configurations_is_loaded(self, kernel):
        ground = foundation.lay(kernel, Needs(scheduler_module="ip_vs_wrr"))

        assert {"wrr", "sh"} == ground.loaded_schedulers
        assert not ground.absent_schedulers

    def test_without_it_all_else_is_there_and_another_one_to_take_its_place(self, kernel):
        kernel.modules.missing.add("ip_vs_twos")

        ground = foundation.lay(kernel, Needs(scheduler_module="ip_vs_twos"))

        assert {"rr", "sh"} == ground.loaded_schedulers
        assert {"twos"} == ground.absent_schedulers
        assert BOTH == ground.families

    def test_without_that_one_nothing_is_served(self, kernel):
        kernel.modules.missing |= {"ip_vs_twos", "ip_vs_rr"}

        with pytest.raises(MissingModule, match="ip_vs_rr"):
            foundation.lay(kernel, Needs(scheduler_module="ip_vs_twos"))

    def test_those_that_the_kernel_did_not_know_are_loaded_as_soon_as_they_can_be(self, kernel):
        kernel.modules.missing.add("ip_vs_twos")
        before = foundation.lay(kernel, NEEDS)
        missing = foundation.still_missing({"lc"}, before, None)
        assert {"lc", "twos"} == missing
        kernel.modules.missing.clear()

        ground = foundation.lay(kernel, NEEDS, before, missing)

        assert {"rr", "sh", "lc", "twos"} == ground.loaded_schedulers
        assert set() == foundation.still_missing(missing, ground, before)

    def test_one_that_the_kernel_does_not_know_though_it_is_there_is_not_tried_again_and_again(self, kernel):
        before = foundation.lay(kernel, NEEDS, None, {"rr"})

        assert {"rr"} == foundation.still_missing(
            {"rr"}, foundation.lay(kernel, NEEDS, before, {"rr"}), before
        )


def serve(kernel, text="[fd00::1]:80"):
    """Put a virtual server into the ledger, as an agent before this one would have done."""
    member = sets.port_member(Purpose.SERVICES, key(text))
    assert [None] == kernel.ipsets.apply([AddMember(member)])


def refuse(kernel, monkeypatch, action, family):
    """Have a tool fail for a family that had worked."""
    answer = getattr(kernel.iptables, action)

    def refuse_one(asked, *arguments):
        if asked is family:
            raise CommandFailed(f"ip6tables-{action}: not now")
        return answer(asked, *arguments)

    monkeypatch.setattr(kernel.iptables, action, refuse_one)


class TestAFamilyWhoseToolsFail:
    def test_at_a_restart_what_an_agent_before_has_served_is_served_on(self, kernel):
        foundation.lay(kernel, INSIDE)
        serve(kernel)
        kernel.iptables.usable = IPV4

        ground = foundation.lay(kernel, INSIDE)

        assert BOTH == ground.families
        assert IPV6 == ground.refusals.keys()
        assert not ground.undivided

    def test_it_is_not_served_before_it_has_rules(self, kernel):
        kernel.iptables.usable = IPV4
        ground = foundation.lay(kernel, INSIDE)

        assert IPV4 == ground.families
        assert sets.set_name(Purpose.SERVICES, Family.IPV6) not in kernel.ipsets.sets()

        kernel.iptables.usable = BOTH
        ground = foundation.lay(kernel, INSIDE, ground)

        assert BOTH == ground.families
        assert {} == ground.refusals
        assert "IPV6 rules" in ground.written

    def test_sets_in_which_nothing_was_served_are_no_reason_to_serve(self, kernel):
        foundation.lay(kernel, INSIDE)
        kernel.iptables.usable = IPV4

        assert IPV4 == foundation.lay(kernel, INSIDE).families

    def test_one_that_the_node_does_not_have_any_more_is_not_served(self, kernel):
        before = foundation.lay(kernel, INSIDE)
        serve(kernel)
        kernel.iptables.usable, kernel.iptables.off = IPV4, IPV6

        assert IPV4 == foundation.lay(kernel, INSIDE, before).families
        assert IPV4 == foundation.lay(kernel, INSIDE).families

    @pytest.mark.parametrize("action", ["save", "restore"])
    def test_one_that_this_process_serves_is_served_on(self, kernel, monkeypatch, action):
        before = foundation.lay(kernel, NEEDS)
        refuse(kernel, monkeypatch, action, Family.IPV6)

        ground = foundation.lay(kernel, INSIDE, before)

        assert BOTH == ground.families
        assert {Family.IPV6: f"ip6tables-{action}: not now"} == ground.refusals
        assert ("IPV4 rules",) == ground.written

    @pytest.mark.parametrize(
        ("expected", "needs"),
        [
            pytest.param(frozenset(), INSIDE, id="clients inside were known"),
            pytest.param(BOTH, NEEDS, id="they were not"),
        ],
    )
    def test_clients_inside_are_told_from_others_as_before(self, kernel, monkeypatch, expected, needs):
        before = foundation.lay(kernel, needs)
        assert expected == before.undivided
        refuse(kernel, monkeypatch, "save", Family.IPV6)

        assert expected == foundation.lay(kernel, needs, before).undivided

    def test_the_rules_come_first_where_nothing_was_served(self, kernel, monkeypatch):
        refuse(kernel, monkeypatch, "restore", Family.IPV6)

        with pytest.raises(CommandFailed, match="not now"):
            foundation.lay(kernel, INSIDE)

    def test_where_no_family_works_it_is_the_node_that_fails(self, kernel, monkeypatch):
        kernel.iptables.usable = IPV4
        before = foundation.lay(kernel, INSIDE)
        refuse(kernel, monkeypatch, "save", Family.IPV4)

        with pytest.raises(CommandFailed, match="not now"):
            foundation.lay(kernel, INSIDE, before)


@pytest.mark.parametrize(
    ("release", "value"),
    [
        pytest.param("4.0.9", "1", id="before it was there"),
        pytest.param("4.1.0", "0", id="the first that drops"),
        pytest.param("4.18.0-553.el8_10.x86_64", "0", id="Red Hat 8"),
        pytest.param("5.8.18-100", "0", id="the last that drops"),
        pytest.param("5.9.0-rc1", "1", id="the first that does not"),
        pytest.param("5.10.0-35-amd64", "1", id="Debian 11"),
        pytest.param("6.18.0", "1", id="later"),
        pytest.param("unknown", "1", id="no number"),
    ],
)
def test_ports_are_used_anew_at_once_on_every_kernel(kernel, release, value):
    kernel.sysctls.values["kernel/osrelease"] = release
    foundation.lay(kernel, NEEDS)

    assert value == kernel.sysctls.values["net/ipv4/vs/conn_reuse_mode"]
