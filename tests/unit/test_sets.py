"""What is made of members that others may have put into our sets."""

from __future__ import annotations

import pytest

from ipvs_agent.addresses import Family
from ipvs_agent.desired import sets, split
from ipvs_agent.desired.sets import Purpose
from ipvs_agent.model import Protocol, SetMember, mark_key
from ipvs_agent.testing.builders import address, key

WEB = key("10.96.0.80:80")
UDPLITE, ICMP, OSPF = 136, 1, 89
MARK = split.mark_of(1, Protocol.TCP)


def member(protocol, port=53, *, purpose=Purpose.SERVICES, mark=0):
    return SetMember(sets.set_name(purpose, Family.IPV4), address("10.0.0.1"), protocol, port=port, mark=mark)


@pytest.mark.parametrize("protocol", [UDPLITE, ICMP, OSPF])
class TestProtocolsThatNoVirtualServerHas:
    def test_such_a_member_of_the_ledger_hides_no_other(self, protocol):
        others, by_mark = key("192.0.2.1:80"), mark_key(Family.IPV4, MARK)
        members = {member(protocol), sets.port_member(Purpose.SERVICES, WEB)}

        assert {WEB, by_mark} == sets.ours([WEB, by_mark, others], members)

    def test_it_names_no_virtual_server(self, protocol):
        assert sets.ledger_key(member(protocol)) is None

    def test_its_mark_is_nobodys(self, protocol):
        members = {member(protocol, purpose=Purpose.MARKS, mark=MARK), sets.mark_member(WEB, MARK)}

        assert {WEB: MARK} == sets.marks(members)


@pytest.mark.parametrize(
    ("expected", "protocol", "port"),
    [
        pytest.param("10.0.0.1,tcp:53", Protocol.TCP, 53, id="one that the agent serves"),
        pytest.param("10.0.0.1,sctp:53", int(Protocol.SCTP), 53, id="by its number"),
        pytest.param("10.0.0.1,136:53", UDPLITE, 53, id="udplite"),
        pytest.param("10.0.0.1,89:0", OSPF, 0, id="one without ports"),
    ],
)
def test_a_member_can_be_printed_whatever_its_protocol(expected, protocol, port):
    assert expected == str(member(protocol, port))
