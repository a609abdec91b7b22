"""What every implementation of kernel.api.Vips does."""

from __future__ import annotations

import pytest

from ipvs_agent import addresses, errors
from ipvs_agent.model import NO_SOURCE, VipForm
from ipvs_agent.operations import AddVip, DeleteVip, SetVip

IPV4 = addresses.parse_address("10.96.0.10")
OTHER_IPV4 = addresses.parse_address("10.96.0.11")
IPV6 = addresses.parse_address("fd00:96::a")


NODE = {4: addresses.parse_address("192.0.2.1"), 16: addresses.parse_address("2001:db8::1")}
OTHER_NODE = {4: addresses.parse_address("192.0.2.2"), 16: addresses.parse_address("2001:db8::2")}
"""Addresses of the node, by their length."""

FAMILIES = pytest.mark.parametrize("address", [pytest.param(IPV4, id="v4"), pytest.param(IPV6, id="v6")])


def kinds(outcomes):
    return [outcome and type(outcome) for outcome in outcomes]


def add_route(address, source=NO_SOURCE):
    return AddVip(address, VipForm.ROUTE, source)


def delete_route(address):
    return DeleteVip(address, VipForm.ROUTE)


class VipsContract:
    """Needs a fixture `vips`, without the interface, and one `own`, which gives the node other addresses."""

    def test_without_the_interface_there_are_no_addresses(self, vips):
        assert set() == vips.addresses()

    def test_a_new_interface_has_no_addresses(self, vips):
        vips.ensure_link()

        assert set() == vips.addresses()

    def test_added_addresses_of_both_families_are_there(self, vips):
        vips.ensure_link()

        assert vips.apply([AddVip(IPV4), AddVip(IPV6)]) == [None, None]
        assert {IPV4, IPV6} == vips.addresses()

    def test_making_the_interface_again_keeps_its_addresses(self, vips):
        vips.ensure_link()
        vips.apply([AddVip(IPV4), AddVip(IPV6)])

        vips.ensure_link()

        assert {IPV4, IPV6} == vips.addresses()

    def test_deleted_addresses_are_gone(self, vips):
        vips.ensure_link()
        vips.apply([AddVip(IPV4), AddVip(OTHER_IPV4), AddVip(IPV6)])

        assert vips.apply([DeleteVip(IPV4), DeleteVip(IPV6)]) == [None, None]
        assert {OTHER_IPV4} == vips.addresses()

    @FAMILIES
    def test_a_second_add_says_it_exists(self, vips, address):
        vips.ensure_link()

        assert [None, errors.AlreadyExists] == kinds(vips.apply([AddVip(address), AddVip(address)]))

    @FAMILIES
    def test_a_missing_address_is_not_found_at_delete(self, vips, address):
        vips.ensure_link()

        assert [errors.NotFound] == kinds(vips.apply([DeleteVip(address)]))

    def test_a_failure_does_not_stop_what_is_behind_it(self, vips):
        vips.ensure_link()

        outcomes = vips.apply([DeleteVip(IPV4), AddVip(IPV4), AddVip(IPV4), AddVip(IPV6)])

        assert [errors.NotFound, None, errors.AlreadyExists, None] == kinds(outcomes)
        assert {IPV4, IPV6} == vips.addresses()

    def test_a_failure_names_its_operation(self, vips):
        vips.ensure_link()
        (outcome,) = vips.apply([DeleteVip(IPV6)])

        assert "ip addr del fd00:96::a/128 dev kube-ipvs0" in str(outcome)

    def test_an_empty_batch_has_no_outcomes(self, vips):
        vips.ensure_link()

        assert vips.apply([]) == []

    def test_without_the_interface_every_operation_is_not_found(self, vips):
        outcomes = vips.apply([AddVip(IPV4), AddVip(IPV6), DeleteVip(IPV4)])

        assert [errors.NotFound] * 3 == kinds(outcomes)

    def test_the_interface_goes_with_its_addresses_and_can_be_made_anew(self, vips):
        vips.ensure_link()
        vips.apply([AddVip(IPV4)])

        vips.remove_link()

        assert [errors.NotFound] == kinds(vips.apply([DeleteVip(IPV4)]))
        vips.ensure_link()
        assert set() == vips.addresses()
        assert vips.apply([AddVip(IPV4)]) == [None]

    def test_an_interface_is_ours_from_its_making_to_its_removal(self, vips):
        assert not vips.link_is_ours()

        vips.ensure_link()
        assert vips.link_is_ours()

        vips.remove_link()
        assert not vips.link_is_ours()

    def test_removing_a_missing_interface_is_not_found(self, vips):
        with pytest.raises(errors.NotFound):
            vips.remove_link()

    def test_without_the_interface_there_are_no_routes(self, vips):
        assert set() == set(vips.routes())
        assert not vips.has_other_routes()
        assert [errors.NotFound] * 2 == kinds(vips.apply([add_route(IPV4), delete_route(IPV6)]))

    def test_added_routes_of_both_families_are_there_and_are_no_addresses(self, vips):
        vips.ensure_link()

        assert [None, None] == vips.apply([add_route(IPV4), add_route(IPV6)])
        assert (set(), {IPV4, IPV6}) == (vips.addresses(), set(vips.routes()))
        assert not vips.has_other_routes()

    @FAMILIES
    def test_a_second_route_says_it_exists(self, vips, address):
        vips.ensure_link()

        assert [None, errors.AlreadyExists] == kinds(vips.apply([add_route(address)] * 2))

    @FAMILIES
    def test_a_missing_route_is_not_found_at_delete(self, vips, address):
        vips.ensure_link()
        vips.apply([AddVip(address)])

        assert [errors.NotFound] == kinds(vips.apply([delete_route(address)]))
        assert {address} == vips.addresses()

    @FAMILIES
    def test_a_deleted_route_is_gone(self, vips, address):
        vips.ensure_link()
        vips.apply([add_route(address), add_route(OTHER_IPV4)])

        assert [None] == vips.apply([delete_route(address)])
        assert {OTHER_IPV4} == set(vips.routes())

    @FAMILIES
    @pytest.mark.parametrize("is_first", [pytest.param(True, id="first"), pytest.param(False, id="second")])
    def test_an_address_can_have_a_route_too_and_each_goes_alone(self, vips, address, is_first):
        vips.ensure_link()
        both = [add_route(address), AddVip(address)] if is_first else [AddVip(address), add_route(address)]

        assert [None, None] == vips.apply(both)
        assert ({address}, {address}) == (vips.addresses(), set(vips.routes()))

        assert [None] == vips.apply([delete_route(address)])
        assert ({address}, set()) == (vips.addresses(), set(vips.routes()))

        assert [None] == vips.apply([add_route(address)])
        assert [None] == vips.apply([DeleteVip(address)])
        assert (set(), {address}) == (vips.addresses(), set(vips.routes()))

    def test_routes_stay_when_the_last_address_goes(self, vips):
        vips.ensure_link()
        vips.apply([AddVip(IPV4), AddVip(IPV6), add_route(IPV4), add_route(OTHER_IPV4), add_route(IPV6)])

        assert [None] * 3 == vips.apply([DeleteVip(IPV4), delete_route(OTHER_IPV4), DeleteVip(IPV6)])

        assert (set(), {IPV4, IPV6}) == (vips.addresses(), set(vips.routes()))

    def test_routes_stay_when_it_is_tidied_up(self, vips):
        vips.ensure_link()
        vips.apply([AddVip(IPV4), add_route(IPV4), add_route(OTHER_IPV4)])
        vips.tidy()
        vips.apply([DeleteVip(IPV4), delete_route(OTHER_IPV4)])
        vips.tidy()
        assert (set(), {IPV4}) == (vips.addresses(), set(vips.routes()))

        vips.apply([AddVip(OTHER_IPV4), delete_route(IPV4)])
        vips.tidy()
        vips.tidy()
        assert ({OTHER_IPV4}, set()) == (vips.addresses(), set(vips.routes()))

    @FAMILIES
    def test_a_route_prefers_a_source(self, vips, own, address):
        own("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2")
        vips.ensure_link()

        assert [None] == vips.apply([add_route(address, NODE[len(address)])])
        assert [errors.AlreadyExists] == kinds(vips.apply([add_route(address, OTHER_NODE[len(address)])]))
        assert {address: NODE[len(address)]} == vips.routes()
        assert [None] == vips.apply([delete_route(address)])
        assert {} == vips.routes()

    @FAMILIES
    @pytest.mark.parametrize(
        "sources",
        [
            pytest.param((NO_SOURCE, NODE), id="one for none"),
            pytest.param((NODE, OTHER_NODE), id="another one"),
            pytest.param((NODE, NO_SOURCE), id="none for one"),
            pytest.param((NODE, NODE), id="the same"),
        ],
    )
    def test_a_route_gets_another_source(self, vips, own, address, sources):
        own("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2")
        before, after = (source and source[len(address)] for source in sources)
        vips.ensure_link()
        vips.apply([AddVip(address), add_route(address, before), add_route(OTHER_IPV4)])

        assert [None] == vips.apply([SetVip(address, after)])

        assert {address: after, OTHER_IPV4: NO_SOURCE} == vips.routes()
        assert {address} == vips.addresses()

    @FAMILIES
    def test_a_route_that_is_gone_is_made_again_with_another_source(self, vips, own, address):
        own("192.0.2.1", "2001:db8::1")
        vips.ensure_link()

        assert [None] == vips.apply([SetVip(address, NODE[len(address)])])
        assert {address: NODE[len(address)]} == vips.routes()

    @FAMILIES
    def test_a_source_that_is_no_address_of_the_node_is_refused(self, vips, own, address):
        own("192.0.2.1", "2001:db8::1")
        vips.ensure_link()
        other = OTHER_NODE[len(address)]

        assert [errors.NotAnAddress] == kinds(vips.apply([add_route(address, other)]))
        assert {} == vips.routes()
        vips.apply([add_route(address, NODE[len(address)])])
        assert [errors.NotAnAddress] == kinds(vips.apply([SetVip(address, other)]))
        assert {address: NODE[len(address)]} == vips.routes()

    @FAMILIES
    def test_a_route_outlives_the_source_that_it_prefers(self, vips, own, address):
        own("192.0.2.1", "2001:db8::1")
        vips.ensure_link()
        vips.apply([add_route(address, NODE[len(address)])])

        own("192.0.2.2", "2001:db8::2")

        assert {address} == set(vips.routes())
        assert [None] == vips.apply([SetVip(address, OTHER_NODE[len(address)])])
        assert {address: OTHER_NODE[len(address)]} == vips.routes()

    def test_without_the_interface_there_is_nothing_to_tidy_up(self, vips):
        vips.tidy()

        assert set() == set(vips.routes())

    def test_routes_go_with_the_interface(self, vips):
        vips.ensure_link()
        vips.apply([add_route(IPV4), add_route(IPV6)])

        vips.remove_link()

        assert set() == set(vips.routes())
        vips.ensure_link()
        assert [None, None] == vips.apply([add_route(IPV4), add_route(IPV6)])

    @pytest.mark.parametrize(
        ("operation", "words"),
        [
            pytest.param(
                delete_route(IPV4), "ip route del local 10.96.0.10/32 table local proto 81", id="delete"
            ),
            pytest.param(
                add_route(IPV6),
                "ip route add local fd00:96::a/128 table local proto 81 dev kube-ipvs0 metric 4945",
                id="add",
            ),
            pytest.param(
                SetVip(IPV4, NODE[4]),
                "ip route replace local 10.96.0.10/32 table local proto 81 dev kube-ipvs0 metric 4945"
                " src 192.0.2.1",
                id="set",
            ),
        ],
    )
    def test_a_route_that_fails_names_its_operation(self, vips, operation, words):
        vips.ensure_link()
        (outcome,) = vips.apply([add_route(IPV6), operation])[1:]

        assert words in str(outcome)
