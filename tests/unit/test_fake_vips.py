from __future__ import annotations

import pytest

from ipvs_agent import errors
from ipvs_agent.operations import AddVip
from ipvs_agent.testing.fake_vips import FakeVips
from tests.contract.vips import IPV4, VipsContract


class TestFakeVips(VipsContract):
    @pytest.fixture
    def vips(self):
        return FakeVips()

    def test_an_interface_of_another_kind_is_not_taken(self, vips):
        vips.kind = "bridge"

        with pytest.raises(errors.InvalidRequest):
            vips.ensure_link()

    def test_an_interface_of_somebody_else_does_not_become_ours(self, vips):
        vips.kind = "dummy"

        vips.ensure_link()

        assert not vips.link_is_ours()

    def test_batches_are_recorded(self, vips):
        vips.apply([AddVip(IPV4)])

        assert [[AddVip(IPV4)]] == vips.batches
