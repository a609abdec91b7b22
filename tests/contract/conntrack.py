"""What every implementation of kernel.api.Conntrack does."""

from __future__ import annotations

import pytest

from ipvs_agent.addresses import Family, family_of, parse_address
from ipvs_agent.kernel.api import FlowMatch
from ipvs_agent.model import Protocol

VIP, OTHER_VIP = parse_address("10.96.0.10"), parse_address("10.96.0.11")
POD, OTHER_POD = parse_address("10.244.1.5"), parse_address("10.244.1.6")
VIP6, POD6 = parse_address("fd00:96::a"), parse_address("fd00:244::5")

# protocol, the address and port that was dialled, who answers
DNS = (Protocol.UDP, VIP, 53, POD)
DNS_BY_OTHER = (Protocol.UDP, VIP, 53, OTHER_POD)
SYSLOG = (Protocol.UDP, VIP, 514, POD)
OTHER_DNS = (Protocol.UDP, OTHER_VIP, 53, POD)
HTTP = (Protocol.TCP, VIP, 53, POD)
DNS6 = (Protocol.UDP, VIP6, 53, POD6)
EVERY_FLOW = {DNS, DNS_BY_OTHER, SYSLOG, OTHER_DNS, HTTP, DNS6}


def udp(family=Family.IPV4, **fields):
    return FlowMatch(family, Protocol.UDP, **fields)


class ConntrackContract:
    """Needs fixtures `conntrack`; `track(flow)`, which adds a flow, and `lead(flow)`, which adds one that NAT
    leads to who answers; and `tracked()`, the set of all."""

    @pytest.mark.parametrize(
        ("matches", "expected"),
        [
            pytest.param([], set(), id="nothing"),
            pytest.param([udp(destination=VIP, destination_port=53)], {DNS, DNS_BY_OTHER}, id="VIP and port"),
            pytest.param([udp(destination=VIP)], {DNS, DNS_BY_OTHER, SYSLOG}, id="VIP"),
            pytest.param([udp(destination_port=53)], {DNS, DNS_BY_OTHER, OTHER_DNS}, id="port"),
            pytest.param([udp(reply_source=OTHER_POD)], {DNS_BY_OTHER}, id="who answers"),
            pytest.param(
                [udp(destination=VIP, destination_port=53, reply_source=POD)], {DNS}, id="all fields"
            ),
            pytest.param([udp()], EVERY_FLOW - {HTTP, DNS6}, id="family and protocol"),
            pytest.param([FlowMatch(Family.IPV4, Protocol.TCP, VIP)], {HTTP}, id="TCP"),
            pytest.param([udp(Family.IPV6, destination=VIP6, destination_port=53)], {DNS6}, id="v6"),
            pytest.param(
                [
                    udp(destination=VIP, destination_port=514),
                    udp(reply_source=OTHER_POD),
                    udp(destination=VIP, destination_port=9),
                    udp(Family.IPV6, reply_source=POD6),
                ],
                {SYSLOG, DNS_BY_OTHER, DNS6},
                id="several",
            ),
            pytest.param(
                [
                    *(udp(destination=OTHER_VIP, destination_port=port) for port in range(1, 5000)),
                    *(udp(Family.IPV6, destination=VIP6, destination_port=port) for port in range(1, 5000)),
                ],
                {OTHER_DNS, DNS6},
                id="thousands",
            ),
            pytest.param(
                [udp(destination=VIP), udp(destination_port=53)],
                EVERY_FLOW - {HTTP, DNS6},
                id="overlapping",
            ),
            pytest.param(
                [udp(destination=VIP, destination_port=53, spared=frozenset({POD}))],
                {DNS_BY_OTHER},
                id="all but one who answers",
            ),
            pytest.param(
                [udp(destination=VIP, spared=frozenset({POD, OTHER_POD}))], set(), id="all who answer spared"
            ),
            pytest.param(
                [udp(destination=VIP, spared=frozenset({VIP6}))],
                {DNS, DNS_BY_OTHER, SYSLOG},
                id="none spared",
            ),
            pytest.param(
                [
                    udp(destination=VIP, spared=frozenset({POD})),
                    udp(destination=VIP, spared=frozenset({OTHER_POD})),
                ],
                {DNS, DNS_BY_OTHER, SYSLOG},
                id="spared by one match only",
            ),
            pytest.param([udp(destination=POD)], set(), id="who answers was not dialled"),
            pytest.param([FlowMatch(Family.IPV4, Protocol.SCTP)], set(), id="no such flow"),
        ],
    )
    def test_flows_that_match_are_deleted_and_counted(self, conntrack, track, tracked, matches, expected):
        for flow in EVERY_FLOW:
            track(flow)

        assert len(expected) == conntrack.delete(matches)
        assert EVERY_FLOW - expected == tracked()

    @pytest.mark.parametrize("flow", [DNS, DNS6], ids=["IPv4", "IPv6"])
    def test_what_nat_has_led_to_who_is_spared_is_deleted(self, conntrack, track, lead, tracked, flow):
        protocol, destination, port, reply_source = flow
        family = family_of(destination)
        match = FlowMatch(family, protocol, destination, port, spared=frozenset({reply_source}))
        track(flow)
        assert 0 == conntrack.delete([match])
        lead(flow)

        assert 1 == conntrack.delete([match])
        assert {flow} == tracked()
