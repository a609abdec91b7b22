"""IPVS on the real kernel, with `ipvsadm` as a witness."""

from __future__ import annotations

import contextlib
import random
import subprocess

import pytest

from ipvs_agent.addresses import Family, parse_address
from ipvs_agent.kernel.ipvs import NetlinkIpvs
from ipvs_agent.model import (
    ForwardingMethod,
    Protocol,
    RealServer,
    ServiceFlags,
    VirtualServer,
    address_key,
    mark_key,
)
from ipvs_agent.operations import AddRealServer, AddVirtualServer
from ipvs_agent.testing.fake_ipvs import FakeIpvs
from tests.contract.ipvs import IpvsContract
from tests.contract.ipvs_tables import (
    GRE,
    GUE,
    KEY,
    KEY6,
    MARK,
    MARK6,
    POD,
    POD6,
    add,
    configured,
    random_table,
)


def ipvsadm(words):
    return subprocess.run(["ipvsadm", *words.split()], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def ipvs(namespace):
    interface = "link add eth0 type dummy\naddress add 192.0.2.1/24 dev eth0\nlink set eth0 up\n"
    subprocess.run(["ip", "-batch", "-"], input=interface, text=True, check=True)
    with contextlib.closing(NetlinkIpvs()) as ipvs:
        yield ipvs
        for daemon in ipvs.daemons():
            ipvs.stop_daemon(daemon.role)


SERVICES = [
    ("-t 10.96.0.1:443 -s rr", VirtualServer(KEY, "rr")),
    ("-t 10.96.0.1:443 -s rr -p 10800", VirtualServer(KEY, "rr", 1, 10800)),
    ("-t 10.96.0.1:443 -s rr -p 360 -M 255.255.255.0", VirtualServer(KEY, "rr", 1, 360, 0xFFFFFF00)),
    ("-u [fd00:10:96::a]:53 -s lc -p 60 -M 64", VirtualServer(KEY6, "lc", 1, 60, 64)),
    ("-u [fd00:10:96::a]:53 -s rr -o", VirtualServer(KEY6, "rr", ServiceFlags.ONE_PACKET)),
    ("-t 10.96.0.1:443 -s sh -b sh-fallback,sh-port", VirtualServer(KEY, "sh", 0x18)),
    ("-t 10.96.0.1:443 -s mh -b mh-fallback", VirtualServer(KEY, "mh", 0x8)),
    ("-t 10.96.0.1:443 -s wrr -b flag-1,flag-3", VirtualServer(KEY, "wrr", 0x28)),
    (
        "--sctp-service 10.96.0.30:38412 -s wlc",
        VirtualServer(address_key(Protocol.SCTP, parse_address("10.96.0.30"), 38412), "wlc"),
    ),
    ("-f 77 -s rr", VirtualServer(MARK, "rr")),
    ("-f 77 -6 -s mh", VirtualServer(MARK6, "mh")),
    ("-f 2147483647 -s rr", VirtualServer(mark_key(Family.IPV4, 2**31 - 1), "rr")),
]

# What ipvsadm takes for a real server, and saves of it; without -m it takes the virtual server's port alone.
REAL_SERVERS = [
    ("-m -w 1", RealServer(POD, 443)),
    ("-m -w 0", RealServer(POD, 443, 0)),
    ("-g -w 5", RealServer(POD, 443, 5, ForwardingMethod.DIRECT)),
    ("-i -w 1 --tun-type ipip", RealServer(POD, 443, 1, ForwardingMethod.TUNNEL)),
    (
        "-i -w 1 --tun-type gue --tun-port 5555 --tun-csum",
        RealServer(POD, 443, 1, ForwardingMethod.TUNNEL, 0, 0, GUE, 5555, 1),
    ),
    (
        "-i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum",
        RealServer(POD, 443, 1, ForwardingMethod.TUNNEL, 0, 0, GUE, 6080, 2),
    ),
    (
        "-i -w 1 --tun-type gre --tun-nocsum",
        RealServer(POD, 443, 1, ForwardingMethod.TUNNEL, 0, 0, GRE, 0, 0),
    ),
]


def named(cases):
    return [pytest.param(words, value, id=words) for words, value in cases]


class TestNetlinkIpvs(IpvsContract):
    @pytest.mark.parametrize(("words", "virtual_server"), named(SERVICES))
    def test_ipvsadm_prints_what_was_made(self, ipvs, words, virtual_server):
        ipvs.apply([AddVirtualServer(virtual_server)])

        assert f"-A {words}\n" == ipvsadm("-Sn")

    @pytest.mark.parametrize(("words", "virtual_server"), named(SERVICES))
    def test_what_ipvsadm_makes_is_read(self, ipvs, words, virtual_server):
        ipvsadm(f"-A {words}")

        (observed,) = ipvs.virtual_servers()
        assert virtual_server == observed.virtual_server

    @pytest.mark.parametrize(("words", "virtual_server"), named(SERVICES))
    def test_operations_print_as_ipvsadm_saves(self, words, virtual_server):
        assert f"ipvsadm -A {words}" == str(AddVirtualServer(virtual_server))

    @pytest.mark.parametrize(("words", "real_server"), named(REAL_SERVERS))
    def test_ipvsadm_prints_the_real_server_that_was_made(self, ipvs, words, real_server):
        add(ipvs, KEY, real_server)

        assert f"-a -t 10.96.0.1:443 -r 10.244.0.1:443 {words}" == ipvsadm("-Sn").splitlines()[1]

    @pytest.mark.parametrize(("words", "real_server"), named(REAL_SERVERS))
    def test_a_real_server_that_ipvsadm_makes_is_read(self, ipvs, words, real_server):
        ipvsadm("-A -t 10.96.0.1:443 -s rr")
        ipvsadm(f"-a -t 10.96.0.1:443 -r 10.244.0.1:443 {words}")

        assert configured(ipvs) == {VirtualServer(KEY, "rr"): {real_server}}

    def test_thresholds_that_ipvsadm_makes_are_read(self, ipvs):
        ipvsadm("-A -u [fd00:10:96::a]:53 -s rr")
        ipvsadm("-a -u [fd00:10:96::a]:53 -r [fd00:10:244::1]:53 -m -x 100 -y 80")

        (observed,) = ipvs.real_servers(KEY6)
        assert RealServer(POD6, 53, 1, 0, 100, 80) == observed.real_server

    def test_what_operations_print_makes_in_ipvsadm_what_they_make(self, ipvs):
        operations = []
        for virtual_server, real_servers in random_table(random.Random(11), 50).items():
            key = virtual_server.key
            if takes_virtual_server(virtual_server):
                operations.append(AddVirtualServer(virtual_server))
                operations += [
                    AddRealServer(key, each) for each in real_servers if takes_real_server(key, each)
                ]
        made = FakeIpvs()
        made.apply(operations)

        rules = "".join(f"{operation}\n".removeprefix("ipvsadm ") for operation in operations)
        subprocess.run(["ipvsadm", "-R"], input=rules, text=True, check=True)

        assert configured(made) == configured(ipvs)


def takes_virtual_server(virtual_server):
    """Say whether ipvsadm takes a virtual server: it knows no "none", and one-packet scheduling for UDP."""
    is_one_packet = virtual_server.flags & ServiceFlags.ONE_PACKET
    return virtual_server.scheduler and not (is_one_packet and virtual_server.key.protocol != Protocol.UDP)


def takes_real_server(key, real_server):
    """Say whether ipvsadm takes a real server as it is: only -m translates ports, and -g means direct."""
    port_fits = real_server.method == ForwardingMethod.MASQUERADE or real_server.port == key.port
    return port_fits and real_server.method != ForwardingMethod.LOCAL
