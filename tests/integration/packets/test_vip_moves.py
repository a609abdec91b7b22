"""Moves of VIPs from addresses to local routes and back, which nobody notices."""

from __future__ import annotations

import contextlib

import pytest

from ipvs_agent.reconcile.vip_forms import MOST_ADDRESSES
from tests import objects
from tests.integration.packets import test_services as services
from tests.integration.packets.configured import configured
from tools.lab import talk
from tools.lab.asking import Asking, Datagrams

pytestmark = pytest.mark.long

ROUTES, ADDRESSES = ("--vip-mode", "routes"), ("--vip-mode", "addresses")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("before", "after"),
    [pytest.param(ADDRESSES, ROUTES, id="to routes"), pytest.param(ROUTES, ADDRESSES, id="to addresses")],
)
def test_a_move_loses_nothing(node, lab, in_background, before, after):
    """Clients of all kinds ask without pause, others hold a connection, while the VIPs move there."""
    node.put(*services.web(lab))
    vips = set(services.VIPS.values())
    found, lost = node.vip_addresses, node.vip_routes
    if after is ROUTES:
        found, lost = lost, found
    node.agent = node.another_agent(*before)
    node.agent.start()
    for address in vips:
        node.wait_for_answer(lab.client, talk.TCP, address, 80)
    held = [
        talk.connect(host.namespace, talk.TCP, address, 80)
        for host in (lab.client, lab.a, lab.node)
        for address in sorted(vips)
    ]
    asking = [
        in_background(Asking(host, address))
        for host in (lab.client, lab.a, lab.node)
        for address in sorted(vips)
    ]
    node.wait_for(lambda: all(one.pods for one in asking))
    node.agent.end()

    node.agent = node.another_agent(*after)
    node.agent.start()

    node.wait_for(lambda: vips == found() and set() == lost())
    position = [len(one.pods) for one in asking]
    node.wait_for(lambda: all(len(one.pods) > at + 20 for one, at in zip(asking, position, strict=True)))
    for one in asking:
        one.end()
    assert [[]] * len(asking) == [one.failures for one in asking]
    for connection in held:
        assert talk.ask_on(connection).name in {"a", "b", "c"}
        connection.close()


def crowd(lab, count):
    """So many Services with a cluster IP of each family."""
    for number in range(1, count + 1):
        name = f"one-{number}"
        vips = (f"10.98.{number >> 8}.{number & 255}", f"fd00:10:98::{number:x}")
        yield objects.service(name, vips)
        yield objects.endpoint_slice(name, services.pods_of(lab, 4)[:1], suffix="4")
        yield objects.endpoint_slice(name, services.pods_of(lab, 6)[:1], suffix="6")


@contextlib.contextmanager
def datagrams(lab):
    """Have clients of all kinds send without pause; at the end none of what they sent may be lost."""
    with contextlib.ExitStack() as stack:
        hosts = (lab.client, lab.a, lab.node)
        askers = [stack.enter_context(Datagrams(host, vip)) for host in hosts for vip in VIPS]
        yield askers
        for asker in askers:
            asker.end()
    assert [[]] * len(askers) == [asker.failures for asker in askers]


VIPS = tuple(services.VIPS.values())


@pytest.mark.timeout(900)
def test_the_vip_that_is_too_many_moves_the_others_under_a_running_agent_and_no_datagram_is_lost(node, lab):
    """All of a thousand, in many slices."""
    many = [*services.web(lab), *crowd(lab, MOST_ADDRESSES // 2 - 1)]
    node.put(*many)
    node.agent.start()
    for vip in VIPS:
        node.wait_for_answer(lab.client, talk.UDP, vip, 80)
    node.wait_for(lambda: len(node.vip_addresses()) == MOST_ADDRESSES)
    with datagrams(lab) as askers:
        node.wait_for(lambda: all(asker.answered > 20 for asker in askers))
        before = [asker.answered for asker in askers]
        node.put(*many, *list(crowd(lab, MOST_ADDRESSES // 2))[-3:])

        node.wait_for(lambda: len(node.vip_routes()) == MOST_ADDRESSES + 2)
        node.wait_for(lambda: node.vip_addresses() == set())
        node.wait_for(lambda: all(a.answered > at + 50 for a, at in zip(askers, before, strict=True)))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("before", "after"),
    [pytest.param(ADDRESSES, ROUTES, id="to routes"), pytest.param(ROUTES, ADDRESSES, id="to addresses")],
)
def test_a_move_loses_no_datagram(node, lab, before, after):
    """By a restart, with so many VIPs that they move in several slices."""
    node.put(*services.web(lab), *crowd(lab, 100))
    count = 2 * 101
    found, lost = (node.vip_routes, node.vip_addresses)[:: 1 if after is ROUTES else -1]
    node.agent = node.another_agent(*before)
    node.agent.start()
    for vip in VIPS:
        node.wait_for_answer(lab.client, talk.UDP, vip, 80)
    node.wait_for(lambda: len(lost()) == count)
    with datagrams(lab) as askers:
        node.wait_for(lambda: all(asker.answered > 20 for asker in askers))
        node.agent.end()

        node.agent = node.another_agent(*after)
        node.agent.start()

        node.wait_for(lambda: len(found()) == count and not lost())


@pytest.fixture
def left_by_kube_proxy(node, lab):
    """VIPs on a link that is down; and it all goes in the end."""
    node.run("ip", "link", "add", "kube-ipvs0", "type", "dummy")
    for address, prefix in ((services.VIPS[4], 32), (services.VIPS[6], 128)):
        node.run("ip", "addr", "add", f"{address}/{prefix}", "dev", "kube-ipvs0")
    node.put(*services.web(lab))
    assert "DOWN" in node.run("ip", "link", "show", "dev", "kube-ipvs0")
    yield
    node.agent.end()
    node.agent.command("cleanup")
    node.run("ip", "link", "del", "kube-ipvs0")


@pytest.mark.usefixtures("left_by_kube_proxy")
def test_addresses_of_kube_proxy_on_a_link_that_is_down_become_routes_at_once(node, lab):
    node.agent = node.another_agent(*ROUTES)
    node.agent.start()

    node.wait_for(lambda: node.vip_addresses() == set() and len(node.vip_routes()) == len(VIPS))
    for vip in VIPS:
        node.wait_for_answer(lab.client, talk.UDP, vip, 80)
    assert "changed by others" not in node.log.read_text()


@pytest.mark.usefixtures("left_by_kube_proxy")
def test_addresses_that_an_agent_took_over_from_kube_proxy_become_routes_without_a_loss(node, lab):
    node.agent = node.another_agent(*ADDRESSES)
    node.agent.start()
    for vip in VIPS:
        node.wait_for_answer(lab.client, talk.UDP, vip, 80)
    with datagrams(lab) as askers:
        node.wait_for(lambda: all(asker.answered > 20 for asker in askers))
        node.agent.end()
        assert "DOWN" in node.run("ip", "link", "show", "dev", "kube-ipvs0")
        node.agent = node.another_agent(*ROUTES)
        node.agent.start()

        node.wait_for(lambda: node.vip_addresses() == set())
        before = [asker.answered for asker in askers]
        node.wait_for(lambda: all(a.answered > at + 50 for a, at in zip(askers, before, strict=True)))


@pytest.mark.parametrize("mode", [ADDRESSES, ROUTES], ids=["addresses", "routes"])
def test_what_goes_with_the_link_is_made_again_long_before_the_next_audit(lab, tmp_path, mode):
    fields = "clusterCIDR: 10.244.0.0/16,fd00:10:244::/48\nipvs: {syncPeriod: 1h}\n"
    with configured(lab, tmp_path, fields, *services.web(lab), arguments=mode) as node:
        for harm in (("set", "kube-ipvs0", "up"), ("set", "kube-ipvs0", "down"), ("del", "kube-ipvs0")) * 2:
            for address in services.VIPS.values():
                node.wait_for_answer(lab.client, talk.TCP, address, 80)
            node.run("ip", "link", *harm)
        for address in services.VIPS.values():
            node.wait_for_answer(lab.client, talk.TCP, address, 80)
