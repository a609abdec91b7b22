"""Moves of VIPs from addresses to local routes and back, which nobody notices."""

from __future__ import annotations

import pytest

from tests.integration.packets import test_services as services
from tests.integration.packets.configured import configured
from tools.lab import talk
from tools.lab.asking import Asking

pytestmark = pytest.mark.long

ROUTES, ADDRESSES = ("--vip-mode", "routes"), ("--vip-mode", "addresses")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("before", "after"),
    [pytest.param(ADDRESSES, ROUTES, id="to routes"), pytest.param(ROUTES, ADDRESSES, id="to addresses")],
)
def test_a_move_loses_nothing(node, lab, before, after):
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
    asking = [Asking(host, address) for host in (lab.client, lab.a, lab.node) for address in sorted(vips)]
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


def test_addresses_that_kube_proxy_left_on_a_link_that_is_down_become_routes(node, lab):
    node.run("ip", "link", "add", "kube-ipvs0", "type", "dummy")
    for address, prefix in ((services.VIPS[4], 32), (services.VIPS[6], 128)):
        node.run("ip", "addr", "add", f"{address}/{prefix}", "dev", "kube-ipvs0")
    node.put(*services.web(lab))
    node.agent = node.another_agent(*ROUTES)
    node.agent.start()

    for address in services.VIPS.values():
        node.wait_for_answer(lab.client, talk.TCP, address, 80)
    node.wait_for(lambda: node.vip_addresses() == set())

    for address in services.VIPS.values():
        assert node.ask(lab.client, talk.TCP, address, 80)
    node.agent.end()
    node.agent.command("cleanup")
    node.run("ip", "link", "del", "kube-ipvs0")


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
