"""nodePortAddresses, by starts of their own: what is primary, and where health checks are answered."""

from __future__ import annotations

import pytest

from tests.integration.packets.configured import configured, has_address
from tests.integration.packets.stock import Stock, client, families, is_refused, node_object
from tools.lab import talk

pytestmark = pytest.mark.long

WEB = Stock(1)
HEALTH = 32001
ADDED = {4: "192.0.2.50", 6: "2001:db8::50"}
BRIDGE = {4: "10.244.1.1", 6: "fd00:10:244:1::1"}


def checked(lab):
    """A Service with a health-check node port."""
    return WEB.objects(lab, lab.pods, externalTrafficPolicy="Local", healthCheckNodePort=HEALTH)


def status_line(lab, who, address):
    """The first line of what a health check hears."""
    with talk.connect(client(lab, who).host.namespace, talk.TCP, address, HEALTH) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: sock.recv(4096), b"")).split(b"\r\n")[0]


@families
def test_primary_is_what_the_node_object_says(lab, tmp_path, family):
    added = ADDED[family]
    lan = lab.node.ipv4 if family == 4 else lab.node.ipv6
    fields = "nodePortAddresses: [primary]\nipvs: {syncPeriod: 1h}\n"
    with (
        configured(lab, tmp_path, fields, node_object(lab), *WEB.objects(lab, lab.pods)) as node,
        has_address(node, added),
    ):
        node.wait_for_answer(lab.client, talk.TCP, lan, WEB.node_port)
        for unserved in (added, BRIDGE[family]):
            assert is_refused(node, client(lab, "a"), talk.TCP, unserved, WEB.node_port)

        # Of a family the Node's first address is the primary one.
        other = node_object(lab)
        other["status"]["addresses"].insert(0, {"type": "InternalIP", "address": added})
        node.put(other, *WEB.objects(lab, lab.pods))
        node.wait_for_answer(lab.client, talk.TCP, added, WEB.node_port)
        node.wait_for(lambda: is_refused(node, client(lab, "client"), talk.TCP, lan, WEB.node_port))


@pytest.mark.sample
def test_health_checks_are_answered_at_the_chosen_addresses(lab, tmp_path):
    fields = "nodePortAddresses: [192.0.2.0/24, 'fd00:10:244:1::/64']\nipvs: {syncPeriod: 1h}\n"
    chosen, others = ("192.0.2.1", BRIDGE[6]), ("2001:db8::1", BRIDGE[4])
    with configured(lab, tmp_path, fields, node_object(lab), *checked(lab)) as node:
        for address in chosen:
            node.wait_for(lambda address=address: b"HTTP/1.0 200 OK" == status_line(lab, "a", address))
        for address in (*others, WEB.balancer(4), WEB.balancer(6)):
            node.wait_for(
                lambda address=address: is_refused(node, client(lab, "a"), talk.TCP, address, HEALTH)
            )
        with has_address(node, ADDED[4]):
            node.wait_for(lambda: b"HTTP/1.0 200 OK" == status_line(lab, "client", ADDED[4]))
