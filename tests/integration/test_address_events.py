"""Notifications of the node's addresses, by the real kernel."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time

import pytest

from ipvs_agent.addresses import parse_address
from ipvs_agent.kernel.address_events import AddressEvents
from ipvs_agent.kernel.node_addresses import NetlinkNodeAddresses
from ipvs_agent.kernel.vips import NetlinkVips
from ipvs_agent.model import VipForm
from ipvs_agent.operations import AddVip, DeleteVip

DEADLINE = 60
SETTLED = 0.05
VIPS = [parse_address(f"10.96.{number >> 8}.{number & 255}") for number in range(5_000)]
VIPS += [parse_address(f"fd00:96::{number:x}") for number in range(1, 5_001)]


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def batch(lines):
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def ignored(*_):
    """Hear nothing."""


class Told:
    """Counts calls."""

    def __init__(self):
        self.count = 0
        self._calls = threading.Semaphore(0)

    def __call__(self):
        self.count += 1
        self._calls.release()

    def until(self, condition):
        """Wait for a call after which a condition holds."""
        while True:
            assert self._calls.acquire(timeout=DEADLINE), "nothing more is told"
            if condition():
                return

    def forget(self):
        """Count and wait anew."""
        while self._calls.acquire(blocking=False):
            pass
        self.count = 0


@pytest.fixture
def interface(namespace):
    ip("link", "add", "eth7", "type", "dummy")
    # Its link-local address would come some time after it is up, and be told of.
    ip("link", "set", "eth7", "addrgenmode", "none")
    ip("link", "set", "eth7", "up")


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def lost():
    return Told()


@pytest.fixture
def gone():
    """The addresses that have gone, in this order."""
    return []


@pytest.fixture
def events(interface, told, gone, lost):
    events = AddressEvents(told, gone.append, lost)
    events.start()
    yield events
    events.stop()


@pytest.fixture
def node_addresses(namespace):
    with contextlib.closing(NetlinkNodeAddresses()) as node_addresses:
        yield lambda: node_addresses.addresses().get("eth7", frozenset())


@pytest.fixture
def vips(namespace):
    with contextlib.closing(NetlinkVips()) as vips:
        yield vips


@pytest.mark.parametrize("text", ["192.0.2.1/24", "2001:db8::1/64"])
def test_an_address_that_comes_and_goes(events, told, gone, node_addresses, text):
    address = parse_address(text.partition("/")[0])

    ip("addr", "add", text, "dev", "eth7", *(["nodad"] if ":" in text else []))
    told.until(lambda: address in node_addresses())
    assert [] == gone

    told.forget()
    ip("addr", "del", text, "dev", "eth7")
    told.until(lambda: not node_addresses())
    assert [address] == gone


def test_an_address_that_proves_to_be_no_duplicate(events, told, node_addresses):
    ip("link", "del", "eth7")
    ip("link", "add", "eth7", "type", "veth", "peer", "name", "eth8")
    ip("link", "set", "eth7", "up")
    ip("link", "set", "eth8", "up")

    ip("addr", "add", "2001:db8::1/64", "dev", "eth7")

    told.until(lambda: parse_address("2001:db8::1") in node_addresses())


def test_an_interface_that_goes_with_its_addresses(events, told, gone, node_addresses):
    ip("addr", "add", "192.0.2.1/24", "dev", "eth7")
    told.until(node_addresses)

    told.forget()
    ip("link", "del", "eth7")

    told.until(lambda: not node_addresses())
    assert [parse_address("192.0.2.1")] == gone


def test_a_burst_is_told_of_few_times_and_not_before_its_end(events, told, node_addresses):
    begin = time.monotonic()
    batch(f"addr add 10.7.{number >> 8}.{number & 255}/32 dev eth7" for number in range(1000))

    told.until(lambda: len(node_addresses()) == 1000)
    assert told.count <= 1 + (time.monotonic() - begin) / SETTLED


def test_what_happens_before_the_start_is_told(interface, told, lost, node_addresses):
    events = AddressEvents(told, ignored, lost)
    ip("addr", "add", "192.0.2.1/24", "dev", "eth7")
    assert told.count == 0

    events.start()

    told.until(node_addresses)
    events.stop()


@pytest.mark.parametrize("is_there_before", [True, False], ids=["old interface", "new interface"])
def test_vips_are_not_told_of(interface, told, lost, node_addresses, vips, is_there_before):
    if is_there_before:
        vips.ensure_link()
    events = AddressEvents(told, ignored, lost)
    events.start()

    vips.ensure_link()
    deadline = time.monotonic() + DEADLINE
    while not events._vip_link:  # until it has heard of the interface, it hears of all that happens there
        assert time.monotonic() < deadline
        time.sleep(0.01)
    vips.apply([AddVip(vip) for vip in VIPS])
    vips.apply([DeleteVip(vip) for vip in VIPS[:100]])
    vips.remove_link()
    vips.ensure_link()
    vips.apply([AddVip(vip) for vip in VIPS[:100]])

    assert told.count == 0
    ip("addr", "add", "192.0.2.1/24", "dev", "eth7")
    told.until(node_addresses)
    assert told.count == 1
    events.stop()


def test_an_interface_that_is_no_longer_that_of_the_vips_is_like_any_other(events, told, vips):
    vips.ensure_link()
    ip("link", "set", "kube-ipvs0", "name", "eth8")

    ip("addr", "add", "192.0.2.1/24", "dev", "eth8")

    told.until(lambda: True)


def test_what_was_lost_for_want_of_room_counts_as_a_change(interface, told, lost, vips):
    events = AddressEvents(told, ignored, lost)
    no_address = [f"link set dev eth7 alias {number}" for number in range(1000)]
    batch([*no_address, "addr add 192.0.2.1/24 dev eth7", "link add kube-ipvs0 type dummy"])

    events.start()
    told.until(lambda: True)
    told.forget()
    vips.apply([AddVip(vip) for vip in VIPS])

    assert told.count == 0  # the interface that came meanwhile was found all the same
    events.stop()


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param([("link", "set", "kube-ipvs0", "down")], id="down"),
        pytest.param([("link", "del", "kube-ipvs0")], id="gone"),
        pytest.param(
            [("link", "del", "kube-ipvs0"), ("link", "add", "kube-ipvs0", "type", "dummy")], id="anew"
        ),
    ],
)
def test_the_loss_of_the_interface_of_the_vips_is_told_once(interface, told, lost, vips, harm):
    vips.ensure_link()
    ip("link", "set", "kube-ipvs0", "up")
    events = AddressEvents(told, ignored, lost)
    events.start()
    for words in harm:
        ip(*words)

    lost.until(lambda: True)
    time.sleep(4 * SETTLED)
    assert (0, 1) == (told.count, lost.count)
    events.stop()


def test_what_becomes_of_it_otherwise_is_no_loss(events, told, lost, vips, node_addresses):
    vips.ensure_link()
    vips.apply([AddVip(vip, form) for vip in VIPS[-10:] for form in VipForm])
    ip("link", "set", "kube-ipvs0", "mtu", "1400")
    vips.apply([DeleteVip(vip, form) for vip in VIPS[-10:] for form in VipForm])
    ip("addr", "add", "192.0.2.1/24", "dev", "eth7")

    told.until(node_addresses)
    assert 0 == lost.count


def test_it_ends_at_once(events):
    for _ in range(5):  # a busy machine may stand still for a moment
        begin = time.monotonic()
        AddressEvents(ignored, ignored, ignored).stop()
        other = AddressEvents(ignored, ignored, ignored)
        other.start()
        other.stop()
        if (seconds := time.monotonic() - begin) < 1:
            break

    assert seconds < 1
    assert 1 == sum(thread.name == "address-events" for thread in threading.enumerate())
