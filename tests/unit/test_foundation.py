"""What is there before the first virtual server, and what of it may fail."""

from __future__ import annotations

import errno

import pytest

from ipvs_agent.addresses import Family
from ipvs_agent.desired import sets
from ipvs_agent.errors import Busy
from ipvs_agent.reconcile import foundation
from ipvs_agent.reconcile.foundation import Needs
from ipvs_agent.testing.fake_kernel import FakeKernel

NEEDS = Needs()


@pytest.fixture
def kernel():
    return FakeKernel()


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
