from __future__ import annotations

import pytest

from ipvs_agent import errors
from ipvs_agent.model import NO_SOURCE
from ipvs_agent.operations import AddVip
from ipvs_agent.testing.fake_node_addresses import FakeNodeAddresses
from ipvs_agent.testing.fake_vips import FakeVips
from tests.contract.vips import IPV4, IPV6, NODE, VipsContract, add_route


class TestFakeVips(VipsContract):
    @pytest.fixture
    def node_addresses(self):
        return FakeNodeAddresses()

    @pytest.fixture
    def own(self, node_addresses):
        return lambda *texts: node_addresses.assign("dummy0", texts)

    @pytest.fixture
    def vips(self, node_addresses):
        return FakeVips(node_addresses)

    def test_an_interface_of_another_kind_is_not_taken(self, vips):
        vips.kind = "bridge"

        with pytest.raises(errors.InvalidRequest):
            vips.ensure_link()

    def test_an_interface_of_somebody_else_does_not_become_ours(self, vips):
        vips.kind = "dummy"

        vips.ensure_link()

        assert not vips.link_is_ours()

    def test_a_source_that_the_node_has_lost_is_taken_from_ipv6_routes(self, vips, own):
        own("192.0.2.1", "2001:db8::1")
        vips.ensure_link()
        vips.apply([add_route(IPV4, NODE[4]), add_route(IPV6, NODE[16])])
        vips.lose_sources()
        assert {IPV4: NODE[4], IPV6: NODE[16]} == vips.routes()

        own()
        vips.lose_sources()

        assert {IPV4: NODE[4], IPV6: NO_SOURCE} == vips.routes()

    def test_batches_are_recorded(self, vips):
        vips.apply([AddVip(IPV4)])

        assert [[AddVip(IPV4)]] == vips.batches
