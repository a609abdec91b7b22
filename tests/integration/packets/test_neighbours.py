"""For whom the node answers by ARP and NDP, and as whom it asks: the same for addresses and routes."""

from __future__ import annotations

import contextlib
import socket
import subprocess

import pytest

from tests import objects
from tests.integration.packets.configured import configured
from tools.lab import talk

pytestmark = pytest.mark.long

VIPS = {4: "10.96.0.80", 6: "fd00:10:96::80"}
_ETH_P_ARP = 0x0806
_REQUEST = b"\0\1"


@pytest.fixture(params=["addresses", "routes"])
def mode(request):
    """Both modes."""
    return request.param


@pytest.fixture
def serving(lab, tmp_path, mode):
    """Return what runs an agent, with strictARP or without; it leaves the settings as they were."""

    @contextlib.contextmanager
    def run(*, strict):
        things = (
            objects.service("web", tuple(VIPS.values())),
            objects.endpoint_slice("web", [lab.a.ipv4], suffix="4"),
            objects.endpoint_slice("web", [lab.a.ipv6], suffix="6"),
        )
        fields = f"ipvs: {{strictARP: {str(strict).lower()}, syncPeriod: 1s}}\n"
        with configured(lab, tmp_path, fields, *things, arguments=("--vip-mode", mode)) as node:
            for address in VIPS.values():
                node.wait_for_answer(lab.client, talk.TCP, address, 80)
            yield node
        for name in ("arp_ignore", "arp_announce"):
            setting = f"/proc/sys/net/ipv4/conf/all/{name}"
            node.run("sh", "-c", f"echo 0 > {setting}")

    return run


@contextlib.contextmanager
def on_link(lab):
    """Have the client look for the VIPs on its own link, so that it asks its neighbours for them."""
    ways = [
        ["ip", "-n", lab.client.namespace, "route", verb, address, "dev", "eth0"]
        for address in VIPS.values()
        for verb in ("add", "del")
    ]
    for way in ways[::2]:
        subprocess.run(way, check=True)
    # What it heard before does not count.
    subprocess.run(["ip", "-n", lab.client.namespace, "neigh", "flush", "dev", "eth0"], check=True)
    try:
        yield
    finally:
        for way in ways[1::2]:
            subprocess.run(way, check=True)


@pytest.mark.parametrize(
    ("strict", "answered"),
    [pytest.param(False, {4}, id="loose"), pytest.param(True, set(), id="strictARP")],
)
def test_who_asks_the_link_for_a_vip(lab, serving, strict, answered):
    """ARP is answered unless that is strict, and NDP never: the VIPs are on another interface."""
    with serving(strict=strict) as node, on_link(lab):
        found = set()
        for family, address in VIPS.items():
            with contextlib.suppress(OSError):
                node.ask(lab.client, talk.TCP, address, 80)
                found.add(family)

    assert answered == found


@pytest.mark.parametrize("strict", [pytest.param(False, id="loose"), pytest.param(True, id="strictARP")])
def test_as_whom_the_node_asks(lab, serving, strict):
    """An answer that leaves for a client with an unknown link address makes the node ask for that."""
    with serving(strict=strict) as node, arp_socket(lab.client) as arp:
        node.run("ip", "neigh", "flush", "dev", "eth0")
        node.ask(lab.client, talk.TCP, VIPS[4], 80)
        senders = asked_for(arp, lab.client.ipv4)

    assert {lab.node.ipv4 if strict else VIPS[4]} == senders


@contextlib.contextmanager
def arp_socket(host):
    """A socket that hears all ARP of a host's link."""
    with talk.inside(host.namespace):
        heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP))
    with heard:
        heard.bind(("eth0", _ETH_P_ARP))
        yield heard


def asked_for(arp, target):
    """As whom somebody has asked for an address so far."""
    arp.setblocking(False)
    senders = set()
    with contextlib.suppress(BlockingIOError):
        while True:
            packet = arp.recv(256)[14:]
            operation, sender, asked = packet[6:8], packet[14:18], packet[24:28]
            if operation == _REQUEST and asked == socket.inet_aton(target):
                senders.add(socket.inet_ntoa(sender))
    return senders
