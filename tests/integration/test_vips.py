"""VIPs on the real kernel, with `ip` as witness."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import subprocess
import time
from pathlib import Path

import pytest

from ipvs_agent import errors
from ipvs_agent.addresses import parse_address
from ipvs_agent.kernel.vips import NetlinkVips
from ipvs_agent.operations import AddVip, DeleteVip, SetVip
from tests.contract.vips import (
    IPV4,
    IPV6,
    NODE,
    OTHER_IPV4,
    OTHER_NODE,
    VipsContract,
    add_route,
    delete_route,
    kinds,
)
from tools.lab import talk

# kube-ipvs0: 10.96.0.10, fd00:96::a | node: 192.0.2.1, 2001:db8::1 on dummy0, the way to everything else


def ip(*words):
    done = subprocess.run(["ip", "-j", *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout or "[]")


def shown(name="kube-ipvs0"):
    (link,) = ip("addr", "show", "dev", name)
    return link


@pytest.fixture
def vips(namespace):
    with contextlib.closing(NetlinkVips()) as vips:
        yield vips


@pytest.fixture
def own(namespace):
    """The node's addresses are on dummy0, the first one of each family in no network."""
    ip("link", "add", "dummy0", "type", "dummy")
    ip("link", "set", "dummy0", "up")

    def replace(*texts):
        ip("addr", "flush", "dev", "dummy0", "scope", "global")
        for text in texts:
            ip("addr", "add", *([f"{text}/128", "nodad"] if ":" in text else [f"{text}/32"]), "dev", "dummy0")

    return replace


class TestNetlinkVips(VipsContract):
    def test_ip_shows_host_addresses_that_are_no_source_for_other_traffic(self, vips):
        vips.ensure_link()
        vips.apply([AddVip(IPV4), AddVip(IPV6)])

        ipv4, ipv6 = shown()["addr_info"]

        assert ("10.96.0.10", 32, "host") == (ipv4["local"], ipv4["prefixlen"], ipv4["scope"])
        assert ("fd00:96::a", 128, "global") == (ipv6["local"], ipv6["prefixlen"], ipv6["scope"])
        assert ipv6["deprecated"]
        assert ipv6["nodad"]
        assert 0 == ipv6["preferred_life_time"]
        assert 0xFFFFFFFF == ipv6["valid_life_time"]

    def test_the_link_is_left_down(self, vips):
        vips.ensure_link()

        assert ("DOWN", ["BROADCAST", "NOARP"]) == (shown()["operstate"], shown()["flags"])

    def test_an_existing_link_is_left_as_it_is(self, vips):
        ip("link", "add", "kube-ipvs0", "type", "dummy")
        ip("link", "set", "kube-ipvs0", "up", "mtu", "1400")
        before = shown()["ifindex"], shown()["mtu"], shown()["flags"]

        vips.ensure_link()

        assert before == (shown()["ifindex"], shown()["mtu"], shown()["flags"])
        assert not vips.link_is_ours()

    def test_a_link_made_by_an_earlier_process_is_ours(self, vips):
        vips.ensure_link()

        with contextlib.closing(NetlinkVips()) as later:
            later.ensure_link()

            assert later.link_is_ours()
        assert "ipvs-agent" == ip("link", "show", "dev", "kube-ipvs0")[0]["ifalias"]

    def test_where_ipv6_is_off_the_error_says_how_to_turn_it_on(self, vips):
        vips.ensure_link()
        Path("/proc/sys/net/ipv6/conf/kube-ipvs0/disable_ipv6").write_text("1")

        (outcome,) = vips.apply([AddVip(IPV6)])

        assert errors.InvalidRequest is type(outcome)
        assert "net.ipv6.conf.kube-ipvs0.disable_ipv6" in str(outcome)

    def test_a_link_of_another_kind_is_refused(self, vips):
        ip("link", "add", "kube-ipvs0", "type", "veth", "peer", "name", "other")

        with pytest.raises(errors.InvalidRequest, match=r"kube-ipvs0 exists and is not a dummy .* veth"):
            vips.ensure_link()

    def test_addresses_of_other_interfaces_are_not_ours(self, vips):
        vips.ensure_link()
        ip("link", "add", "dummy0", "type", "dummy")
        ip("addr", "add", "192.0.2.1/24", "dev", "dummy0")
        ip("addr", "add", "2001:db8::1/64", "dev", "dummy0", "nodad")
        vips.apply([AddVip(IPV4)])

        assert {IPV4} == vips.addresses()

    def test_a_link_local_address_is_not_a_vip(self, vips):
        vips.ensure_link()
        ip("link", "set", "kube-ipvs0", "up")
        vips.apply([AddVip(IPV6)])

        assert ["link"] == [each["scope"] for each in shown()["addr_info"] if each["scope"] != "global"]
        assert {IPV6} == vips.addresses()

    def test_a_link_that_vanishes_and_comes_back(self, vips):
        vips.ensure_link()
        ip("link", "delete", "kube-ipvs0")

        assert [errors.NotFound] == kinds(vips.apply([AddVip(IPV4)]))
        vips.ensure_link()
        assert [None] == vips.apply([AddVip(IPV4)])

    def test_ip_shows_routes_that_are_known_by_their_protocol(self, vips):
        vips.ensure_link()
        vips.apply([add_route(IPV4), add_route(IPV6)])

        (ipv4,) = ip("route", "show", "table", "local", "proto", "81")
        (ipv6,) = ip("-6", "route", "show", "table", "local", "proto", "81")

        assert ("local", "10.96.0.10", "kube-ipvs0") == (ipv4["type"], ipv4["dst"], ipv4["dev"])
        assert ("local", "fd00:96::a", "kube-ipvs0") == (ipv6["type"], ipv6["dst"], ipv6["dev"])
        assert {4945} == {ipv4["metric"], ipv6["metric"]}

    def test_what_an_operation_says_is_what_ip_does(self, vips, own):
        own("192.0.2.1", "2001:db8::1")
        vips.ensure_link()
        vips.apply([add_route(IPV6)])
        for address in (OTHER_IPV4, IPV6):
            ip(*str(add_route(address)).replace("fd00:96::a", "fd00:96::b").split()[1:])

        assert {OTHER_IPV4, IPV6, parse_address("fd00:96::b")} == set(vips.routes())
        for address, source in ((OTHER_IPV4, NODE[4]), (IPV6, NODE[16])):
            ip(*str(SetVip(address, source)).split()[1:])
            assert source == vips.routes()[address]
        for address in (OTHER_IPV4, IPV6):
            ip(*str(delete_route(address)).split()[1:])
        assert {parse_address("fd00:96::b")} == set(vips.routes())

    def test_ipv4_routes_leave_the_link_down(self, vips):
        vips.ensure_link()
        vips.apply([add_route(IPV4)])

        assert ["BROADCAST", "NOARP"] == shown()["flags"]

    def test_for_ipv6_routes_the_link_is_up_without_an_address_of_its_own(self, vips):
        vips.ensure_link()
        vips.apply([add_route(IPV6)])

        assert "UP" in shown()["flags"]
        assert [] == shown()["addr_info"]

    def test_a_link_found_up_makes_no_address_of_its_own_from_then_on(self, vips):
        """One that it has is not ours, and stays."""
        ip("link", "add", "kube-ipvs0", "type", "dummy")
        ip("link", "set", "kube-ipvs0", "up")
        vips.apply([add_route(IPV6)])
        (own,) = shown()["addr_info"]
        assert "link" == own["scope"]

        ip("link", "set", "kube-ipvs0", "down")
        ip("link", "set", "kube-ipvs0", "up")

        assert [] == shown()["addr_info"]

    def test_ipv6_routes_that_went_with_the_link_can_be_added_again(self, vips):
        vips.ensure_link()
        vips.apply([add_route(IPV4), add_route(IPV6)])

        ip("link", "set", "kube-ipvs0", "down")

        assert {IPV4} == set(vips.routes())
        assert [None] == vips.apply([add_route(IPV6)])
        assert {IPV4, IPV6} == set(vips.routes())

    def test_addresses_on_a_link_that_is_down_get_routes(self, vips):
        """As kube-proxy leaves them."""
        ip("link", "add", "kube-ipvs0", "type", "dummy")
        ip("addr", "add", "10.96.0.10/32", "dev", "kube-ipvs0")
        ip("addr", "add", "fd00:96::a/128", "dev", "kube-ipvs0")

        assert [None, None] == vips.apply([add_route(IPV4), add_route(IPV6)])
        assert ({IPV4, IPV6}, {IPV4, IPV6}) == (vips.addresses(), set(vips.routes()))

    def test_an_address_that_is_the_nodes_own_anyway_keeps_the_routes(self, vips):
        """The kernel would forget them with the interface's last address, without a word."""
        vips.ensure_link()
        vips.apply([AddVip(IPV4), AddVip(IPV6)])
        assert ["10.96.0.10", "fd00:96::a"] == [each["local"] for each in shown()["addr_info"]]
        vips.apply([add_route(IPV4)])
        vips.apply([DeleteVip(IPV4), DeleteVip(IPV6)])

        (kept,) = shown()["addr_info"]
        assert ("127.0.0.81", 32, "host") == (kept["local"], kept["prefixlen"], kept["scope"])
        assert (set(), {IPV4}) == (vips.addresses(), set(vips.routes()))

    def test_others_that_remove_the_last_address_but_that_take_no_route_with_it(self, vips):
        vips.ensure_link()
        vips.apply([add_route(IPV4)])
        ip("addr", "add", "203.0.113.9/32", "dev", "kube-ipvs0")
        ip("addr", "del", "203.0.113.9/32", "dev", "kube-ipvs0")

        assert {IPV4} == set(vips.routes())

    def test_with_the_last_ipv4_route_goes_what_kept_them(self, vips):
        vips.ensure_link()
        vips.apply([add_route(IPV4), add_route(IPV6)])
        vips.apply([delete_route(IPV4)])

        vips.tidy()

        assert [] == shown()["addr_info"]

    def test_routes_of_others_are_not_ours(self, vips):
        vips.ensure_link()
        vips.apply([add_route(IPV4)])
        ip("route", "add", "local", "10.96.0.99/32", "dev", "kube-ipvs0", "table", "local", "scope", "host")

        assert vips.has_other_routes()
        assert {IPV4} == set(vips.routes())

    @pytest.mark.parametrize(
        ("address", "family", "expected"),
        [
            pytest.param(IPV4, socket.AF_INET, 0, id="v4"),
            pytest.param(IPV6, socket.AF_INET6, errno.EADDRNOTAVAIL, id="v6"),
        ],
    )
    def test_what_a_daemon_may_bind_to(self, vips, address, family, expected):
        vips.ensure_link()
        vips.apply([add_route(address)])
        with socket.socket(family) as daemon:
            assert expected == daemon_error(daemon, socket.inet_ntop(family, address))
        vips.apply([AddVip(address)])
        with socket.socket(family) as daemon:
            assert 0 == daemon_error(daemon, socket.inet_ntop(family, address))

    @pytest.mark.parametrize(
        ("address", "family", "source"),
        [
            pytest.param(IPV4, socket.AF_INET, "10.96.0.10", id="v4"),
            pytest.param(IPV6, socket.AF_INET6, "2001:db8::1", id="v6"),
        ],
    )
    def test_from_where_the_node_dials_a_route(self, vips, own, address, family, source):
        vips.ensure_link()
        vips.apply([add_route(address)])
        own("192.0.2.1", "2001:db8::1")

        assert source == dialled_from(family, address)

    @pytest.mark.parametrize(
        ("address", "family"),
        [pytest.param(IPV4, socket.AF_INET, id="v4"), pytest.param(IPV6, socket.AF_INET6, id="v6")],
    )
    def test_the_node_dials_a_route_from_the_source_that_it_prefers(self, vips, own, address, family):
        one, other = (socket.inet_ntop(family, of[len(address)]) for of in (NODE, OTHER_NODE))
        own("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2")
        vips.ensure_link()
        for source in (one, other, one):
            vips.apply([SetVip(address, parse_address(source))])

            assert source == dialled_from(family, address)
        own(other)
        vips.apply([SetVip(address, parse_address(other))])

        assert other == dialled_from(family, address)

    def test_where_ipv6_is_off_the_error_of_a_route_says_how_to_turn_it_on(self, vips):
        vips.ensure_link()
        Path("/proc/sys/net/ipv6/conf/kube-ipvs0/disable_ipv6").write_text("1")

        outcomes = vips.apply([add_route(IPV6), add_route(IPV4)])

        assert [errors.InvalidRequest, None] == kinds(outcomes)
        assert "net.ipv6.conf.kube-ipvs0.disable_ipv6" in str(outcomes[0])

    @pytest.mark.parametrize(
        ("address", "family"),
        [
            pytest.param(IPV4, socket.AF_INET, id="v4"),
            pytest.param(IPV6, socket.AF_INET6, id="v6"),
        ],
    )
    def test_the_node_answers_on_a_vip_though_the_link_is_down(self, vips, address, family):
        vips.ensure_link()
        vips.apply([AddVip(address)])
        text = socket.inet_ntop(family, address)

        with socket.create_server((text, 8080), family=family) as server, _connection(text) as client:
            assert text == client.getsockname()[0]
            server.accept()[0].close()

    @pytest.mark.parametrize(
        ("destination", "source"),
        [
            pytest.param("198.51.100.1", "192.0.2.1", id="v4"),
            pytest.param("fd00:77::1", "2001:db8::1", id="v6"),
        ],
    )
    def test_other_traffic_of_the_node_has_a_node_address(self, vips, destination, source):
        """In IPv6 even though the VIP is the better match by prefix and label, and the way out has none."""
        vips.ensure_link()
        vips.apply([AddVip(IPV4), AddVip(IPV6)])
        ip("link", "add", "dummy0", "type", "dummy")
        ip("link", "set", "dummy0", "up")
        ip("addr", "add", "192.0.2.1/32", "dev", "lo")
        ip("addr", "add", "2001:db8::1/128", "dev", "lo", "nodad")
        ip("route", "add", "198.51.100.0/24", "dev", "dummy0")
        ip("route", "add", "fd00:77::/64", "dev", "dummy0")

        (route,) = ip("route", "get", destination)

        assert source == route["prefsrc"]

    def test_addresses_made_by_others_are_adopted(self, vips):
        vips.ensure_link()
        ip("addr", "add", "10.96.0.10/32", "dev", "kube-ipvs0")
        ip("addr", "add", "fd00:96::a/128", "dev", "kube-ipvs0")

        assert {IPV4, IPV6} == vips.addresses()
        assert [None, None] == vips.apply([DeleteVip(IPV4), DeleteVip(IPV6)])
        assert [] == shown()["addr_info"]

    def test_a_thousand_addresses_in_one_batch(self, vips):
        vips.ensure_link()
        wanted = {parse_address(f"10.97.{i >> 8}.{i & 255}") for i in range(500)}
        wanted |= {parse_address(f"fd00:97::{i:x}") for i in range(500)}

        assert [None] * 1000 == vips.apply([AddVip(address) for address in sorted(wanted)])
        assert wanted == vips.addresses()
        assert 1000 == len(shown()["addr_info"])


def daemon_error(daemon, address):
    """Bind, and return the errno with which that fails, or 0."""
    try:
        daemon.bind((address, 8080))
    except OSError as error:
        return error.errno
    return 0


def dialled_from(family, address):
    """From which address the node dials another one."""
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.connect((socket.inet_ntop(family, address), 80))
        return client.getsockname()[0]


def _connection(address):
    """Connect as soon as there is a route: an IPv6 address gets it from a work queue (addrconf_dad_work)."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection((address, 8080), timeout=60)
        except OSError as error:
            if error.errno != errno.ENETUNREACH or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def test_where_nothing_ever_had_an_address_there_are_no_routes(bare_namespace):
    with talk.inside(bare_namespace), contextlib.closing(NetlinkVips()) as vips:
        assert set() == set(vips.routes())
