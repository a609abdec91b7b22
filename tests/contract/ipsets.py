"""What every implementation of kernel.api.IpSets does."""

from __future__ import annotations

import random

import msgspec
import pytest

from ipvs_agent import addresses, errors
from ipvs_agent.addresses import Family, parse_address
from ipvs_agent.model import IpSet, Protocol, SetMember, SetType
from ipvs_agent.operations import AddMember, DeleteMember

PORTS = IpSet("PORTS", SetType.HASH_IP_PORT, Family.IPV4)
VIP = parse_address("10.96.0.10")
HTTP = SetMember("PORTS", VIP, Protocol.TCP, 80)
DNS = SetMember("PORTS", VIP, Protocol.UDP, 53)

MARKS = IpSet("MARKS", SetType.HASH_IP_PORT, Family.IPV4, has_marks=True)
HEALTH = IpSet("HEALTH", SetType.BITMAP_PORT, None)


def every_set():
    """Yield a set of every type and family, those of addresses with marks too."""
    yield IpSet("ports", SetType.BITMAP_PORT, None)
    for kind in SetType:
        if kind is not SetType.BITMAP_PORT:
            for family in Family:
                yield IpSet(f"{kind.value}/{family.name}", kind, family)
                yield IpSet(f"{kind.value}/{family.name}+marks", kind, family, has_marks=True)


EVERY_SET = list(every_set())
WITH_MARKS = [each for each in EVERY_SET if each.has_marks]
HASHES = [each for each in EVERY_SET if each.type is not SetType.BITMAP_PORT]


def kinds(outcomes):
    return [outcome and type(outcome) for outcome in outcomes]


def member_of(ip_set, number):
    """Return a member that fits a set, a different one for each number below 65536."""
    mark = number << 16 | 0x8001 if ip_set.has_marks else 0
    if ip_set.type is SetType.BITMAP_PORT:
        return SetMember(ip_set.name, port=number)
    base = {Family.IPV4: "10.1.0.0", Family.IPV6: "fd00:1::"}[ip_set.family]
    address = addresses.Address(parse_address(base)[:-2] + number.to_bytes(2))
    fields = {"address": address}
    if ip_set.type is not SetType.HASH_IP:
        fields |= {"protocol": list(Protocol)[number % 3], "port": number}
    if ip_set.type is SetType.HASH_IP_PORT_IP:
        fields |= {"source": address}
    if ip_set.type is SetType.HASH_IP_PORT_NET:
        prefix = 1 + number % (len(address) * 8)
        fields |= {"source": addresses.masked(address, prefix), "source_prefix": prefix}
    return SetMember(ip_set.name, **fields, mark=mark)


def marked(ip_set, number, mark):
    """Return a member of a set with a mark of one's own."""
    return msgspec.structs.replace(member_of(ip_set, number), mark=mark)


class IpSetsContract:
    """Needs a fixture `ipsets`, without any set."""

    def test_at_first_there_are_no_sets(self, ipsets):
        assert ipsets.sets() == {}

    def test_sets_of_every_type_and_family_are_listed(self, ipsets):
        for ip_set in EVERY_SET:
            ipsets.create(ip_set)

        assert {ip_set.name: ip_set for ip_set in EVERY_SET} == ipsets.sets()

    @pytest.mark.parametrize("ip_set", [pytest.param(each, id=each.name) for each in EVERY_SET])
    def test_members_read_back_as_they_were_added(self, ipsets, ip_set):
        members = {member_of(ip_set, number) for number in range(1, 300)}
        ipsets.create(ip_set)

        assert ipsets.apply([AddMember(member) for member in sorted(members)]) == [None] * 299
        assert members == ipsets.members(ip_set.name)

    def test_a_reading_has_another_digest_where_members_have_changed(self, ipsets):
        ipsets.create(PORTS)

        def digest_after(*operations):
            assert {None} >= {*ipsets.apply(operations)}
            return ipsets.reading("PORTS").digest

        empty = digest_after()
        one = digest_after(AddMember(HTTP))
        again = digest_after()
        both = digest_after(AddMember(DNS))
        without = digest_after(DeleteMember(DNS))

        assert one == again == without
        assert 3 == len({empty, one, both})
        assert {HTTP} == ipsets.reading("PORTS").content()

    def test_a_member_is_what_all_its_fields_are(self, ipsets):
        ipsets.create(PORTS)
        ipsets.apply([AddMember(HTTP), AddMember(DNS)])

        ipsets.apply([DeleteMember(HTTP)])

        assert {DNS} == ipsets.members("PORTS")

    def test_a_name_that_is_taken(self, ipsets):
        ipsets.create(PORTS)

        with pytest.raises(errors.AlreadyExists):
            ipsets.create(PORTS)

    def test_a_name_of_31_characters_is_the_longest(self, ipsets):
        ipsets.create(IpSet("x" * 31, SetType.HASH_IP, Family.IPV6))

        with pytest.raises(errors.InvalidRequest):
            ipsets.create(IpSet("x" * 32, SetType.HASH_IP, Family.IPV6))

    @pytest.mark.parametrize(
        "ask",
        [
            pytest.param(lambda ipsets: ipsets.destroy("nope"), id="destroy"),
            pytest.param(lambda ipsets: ipsets.flush("nope"), id="flush"),
            pytest.param(lambda ipsets: ipsets.members("nope"), id="members"),
            pytest.param(lambda ipsets: ipsets.reading("nope"), id="reading"),
            pytest.param(lambda ipsets: ipsets.swap("nope", "PORTS"), id="swap, first"),
            pytest.param(lambda ipsets: ipsets.swap("PORTS", "nope"), id="swap, second"),
        ],
    )
    def test_a_missing_set_is_not_found(self, ipsets, ask):
        ipsets.create(PORTS)

        with pytest.raises(errors.NotFound):
            ask(ipsets)

    def test_a_destroyed_set_is_gone(self, ipsets):
        ipsets.create(PORTS)

        ipsets.destroy("PORTS")

        assert ipsets.sets() == {}

    def test_a_flushed_set_is_empty(self, ipsets):
        ipsets.create(PORTS)
        ipsets.apply([AddMember(HTTP), AddMember(DNS)])

        ipsets.flush("PORTS")

        assert set() == ipsets.members("PORTS")

    def test_swapped_sets_exchange_their_members(self, ipsets):
        ipsets.create(PORTS)
        ipsets.create(IpSet("NEXT", SetType.HASH_IP_PORT, Family.IPV4))
        ipsets.apply([AddMember(HTTP)])

        ipsets.swap("PORTS", "NEXT")

        assert set() == ipsets.members("PORTS")
        assert {SetMember("NEXT", VIP, Protocol.TCP, 80)} == ipsets.members("NEXT")

    def test_capacity_and_marks_go_along_with_the_members_in_a_swap(self, ipsets):
        small = IpSet("PORTS", SetType.HASH_IP_PORT, Family.IPV4, capacity=2)
        large = IpSet("NEXT", SetType.HASH_IP_PORT, Family.IPV4, has_marks=True, capacity=5)
        ipsets.create(small)
        ipsets.create(large)
        ipsets.apply([AddMember(member_of(large, 1))])

        ipsets.swap("PORTS", "NEXT")

        assert ipsets.sets() == {
            "PORTS": msgspec.structs.replace(large, name="PORTS"),
            "NEXT": msgspec.structs.replace(small, name="NEXT"),
        }
        assert {msgspec.structs.replace(member_of(large, 1), set_name="PORTS")} == ipsets.members("PORTS")

    @pytest.mark.parametrize("ip_set", [pytest.param(each, id=each.name) for each in HASHES])
    def test_a_full_set_takes_no_more_but_what_it_has(self, ipsets, ip_set):
        ipsets.create(msgspec.structs.replace(ip_set, capacity=2))
        one, two, three = (member_of(ip_set, number) for number in (1, 2, 3))

        outcomes = ipsets.apply([AddMember(one), AddMember(two), AddMember(three), AddMember(one)])

        assert [None, None, errors.SetFull, None] == kinds(outcomes)
        assert {one, two} == ipsets.members(ip_set.name)

    def test_a_full_set_has_room_again_when_a_member_goes(self, ipsets):
        ipsets.create(IpSet("PORTS", SetType.HASH_IP_PORT, Family.IPV4, capacity=1))

        outcomes = ipsets.apply([AddMember(HTTP), AddMember(DNS), DeleteMember(HTTP), AddMember(DNS)])

        assert [None, errors.SetFull, None, None] == kinds(outcomes)
        assert {DNS} == ipsets.members("PORTS")

    def test_a_full_set_refuses_the_rest_of_a_large_batch_one_by_one(self, ipsets):
        ipsets.create(IpSet("PORTS", SetType.HASH_IP_PORT, Family.IPV4, capacity=1000))
        members = [member_of(PORTS, number) for number in range(1, 2001)]

        outcomes = ipsets.apply([AddMember(member) for member in members])

        assert [None] * 1000 + [errors.SetFull] * 1000 == kinds(outcomes)
        assert set(members[:1000]) == ipsets.members("PORTS")

    def test_every_port_fits_into_a_set_of_ports(self, ipsets):
        ipsets.create(HEALTH)
        ports = [SetMember("HEALTH", port=port) for port in range(65536)]

        assert [None] * 65536 == ipsets.apply([AddMember(member) for member in ports])
        assert set(ports) == ipsets.members("HEALTH")

    @pytest.mark.parametrize(
        "ip_set", [pytest.param(each, id=each.name) for each in EVERY_SET if each.has_marks]
    )
    def test_adding_a_member_with_another_mark_replaces_the_mark(self, ipsets, ip_set):
        ipsets.create(ip_set)
        ipsets.apply([AddMember(marked(ip_set, number, 7)) for number in range(1, 5)])

        changes = [marked(ip_set, 1, 0xFFFFFFFF), marked(ip_set, 2, 0), marked(ip_set, 3, 1)]
        outcomes = ipsets.apply([AddMember(member) for member in changes])

        assert [None] * 3 == outcomes
        assert {*changes, marked(ip_set, 4, 7)} == ipsets.members(ip_set.name)

    def test_of_two_marks_in_one_batch_the_last_holds(self, ipsets):
        ipsets.create(MARKS)

        ipsets.apply([AddMember(marked(MARKS, 1, 7)), AddMember(marked(MARKS, 1, 8))])

        assert {marked(MARKS, 1, 8)} == ipsets.members("MARKS")

    def test_the_mark_of_a_member_of_a_full_set_can_be_replaced(self, ipsets):
        ipsets.create(msgspec.structs.replace(MARKS, capacity=1))
        ipsets.apply([AddMember(marked(MARKS, 1, 7))])

        assert [None] == ipsets.apply([AddMember(marked(MARKS, 1, 8))])
        assert {marked(MARKS, 1, 8)} == ipsets.members("MARKS")

    def test_a_member_goes_whatever_mark_it_is_said_to_have(self, ipsets):
        """So what deletes a member with its old mark would delete it with its new one too."""
        ipsets.create(MARKS)
        ipsets.apply([AddMember(marked(MARKS, number, 7)) for number in (1, 2, 3)])

        outcomes = ipsets.apply([DeleteMember(marked(MARKS, 1, 8)), DeleteMember(marked(MARKS, 2, 0))])

        assert [None, None] == outcomes
        assert {marked(MARKS, 3, 7)} == ipsets.members("MARKS")

    @pytest.mark.parametrize("operation", [AddMember, DeleteMember])
    def test_a_set_without_marks_takes_none(self, ipsets, operation):
        ipsets.create(PORTS)
        ipsets.apply([AddMember(HTTP)])

        outcomes = ipsets.apply([operation(msgspec.structs.replace(HTTP, mark=7))])

        assert [errors.InvalidRequest] == kinds(outcomes)
        assert {HTTP} == ipsets.members("PORTS")

    @pytest.mark.parametrize(
        "other",
        [
            pytest.param(IpSet("NEXT", SetType.BITMAP_PORT, None), id="ports"),
            pytest.param(IpSet("NEXT", SetType.HASH_IP, Family.IPV4), id="type"),
            pytest.param(IpSet("NEXT", SetType.HASH_IP_PORT, Family.IPV6), id="family"),
        ],
    )
    def test_only_sets_of_one_kind_can_be_swapped(self, ipsets, other):
        ipsets.create(PORTS)
        ipsets.create(other)

        with pytest.raises(errors.InvalidRequest):
            ipsets.swap("PORTS", "NEXT")

    def test_adding_what_is_there_and_deleting_what_is_not_is_done(self, ipsets):
        ipsets.create(PORTS)

        outcomes = ipsets.apply([AddMember(HTTP), AddMember(HTTP), DeleteMember(DNS)])

        assert outcomes == [None, None, None]
        assert {HTTP} == ipsets.members("PORTS")

    def test_operations_on_one_member_take_effect_in_order(self, ipsets):
        ipsets.create(PORTS)

        ipsets.apply([AddMember(HTTP), DeleteMember(HTTP), DeleteMember(DNS), AddMember(DNS)])

        assert {DNS} == ipsets.members("PORTS")

    @pytest.mark.parametrize(
        ("ip_set", "fields"),
        [
            pytest.param(PORTS, {"address": VIP}, id="port missing"),
            pytest.param(
                IpSet("ADDRESSES", SetType.HASH_IP, Family.IPV4),
                {"address": VIP, "protocol": Protocol.TCP, "port": 80},
                id="port too much",
            ),
            pytest.param(
                IpSet("HAIRPIN", SetType.HASH_IP_PORT_IP, Family.IPV4),
                {"address": VIP, "protocol": Protocol.TCP, "port": 80},
                id="source missing",
            ),
            pytest.param(
                PORTS,
                {"address": VIP, "protocol": Protocol.TCP, "port": 80, "source": VIP},
                id="source too much",
            ),
            pytest.param(
                IpSet("HAIRPIN", SetType.HASH_IP_PORT_IP, Family.IPV4),
                {
                    "address": VIP,
                    "protocol": Protocol.TCP,
                    "port": 80,
                    "source": VIP,
                    "source_prefix": 24,
                },
                id="prefix too much",
            ),
            pytest.param(
                IpSet("RANGES", SetType.HASH_IP_PORT_NET, Family.IPV4),
                {
                    "address": VIP,
                    "protocol": Protocol.TCP,
                    "port": 80,
                    "source": VIP,
                    "source_prefix": 33,
                },
                id="prefix too long",
            ),
            pytest.param(
                PORTS,
                {"address": parse_address("fd00:96::a"), "protocol": Protocol.TCP, "port": 80},
                id="v6 in a v4 set",
            ),
            pytest.param(
                IpSet("PORTS6", SetType.HASH_IP_PORT, Family.IPV6),
                {"address": VIP, "protocol": Protocol.TCP, "port": 80},
                id="v4 in a v6 set",
            ),
            pytest.param(
                IpSet("HAIRPIN", SetType.HASH_IP_PORT_IP, Family.IPV4),
                {
                    "address": VIP,
                    "protocol": Protocol.TCP,
                    "port": 80,
                    "source": parse_address("fd00:96::a"),
                },
                id="source of the other family",
            ),
            pytest.param(HEALTH, {"address": VIP, "port": 80}, id="address in a set of ports"),
            pytest.param(
                HEALTH,
                {"address": VIP, "protocol": Protocol.TCP, "port": 80},
                id="protocol in a set of ports",
            ),
            pytest.param(PORTS, {"port": 80}, id="port alone"),
            pytest.param(
                IpSet("ADDRESSES", SetType.HASH_IP, Family.IPV4),
                {"address": parse_address("0.0.0.0")},
                id="address of zeros",
            ),
        ],
    )
    def test_a_member_that_does_not_fit_its_set_is_refused(self, ipsets, ip_set, fields):
        ipsets.create(ip_set)

        outcomes = ipsets.apply([AddMember(SetMember(ip_set.name, **fields))])

        assert [errors.InvalidRequest] == kinds(outcomes)
        assert set() == ipsets.members(ip_set.name)

    def test_host_bits_of_a_range_are_cleared(self, ipsets):
        ranges = IpSet("RANGES", SetType.HASH_IP_PORT_NET, Family.IPV4)
        ipsets.create(ranges)

        ipsets.apply([AddMember(SetMember("RANGES", VIP, Protocol.TCP, 80, VIP, 8))])

        base = parse_address("10.0.0.0")
        assert {SetMember("RANGES", VIP, Protocol.TCP, 80, base, 8)} == ipsets.members("RANGES")

    def test_a_failure_names_its_operation(self, ipsets):
        (outcome,) = ipsets.apply([AddMember(HTTP)])

        assert "ipset add PORTS 10.96.0.10,tcp:80" in str(outcome)

    def test_failures_find_their_operations_in_a_large_batch(self, ipsets):
        """Members that do not fit and members of missing sets fail; all others are done, in any order."""
        rng = random.Random(8)
        other = IpSet("OTHER", SetType.HASH_IP, Family.IPV6)
        ipsets.create(PORTS)
        ipsets.create(other)
        good = [member_of(rng.choice([PORTS, other]), number) for number in range(1, 4000)]
        bad = {
            errors.InvalidRequest: SetMember("PORTS", VIP),
            errors.NotFound: SetMember("nope", VIP),
        }
        rows = [(None, member) for member in good] + [*bad.items()] * 100
        rng.shuffle(rows)

        outcomes = ipsets.apply([AddMember(member) for _, member in rows])

        assert [kind for kind, _ in rows] == kinds(outcomes)
        assert set(good) == ipsets.members("PORTS") | ipsets.members("OTHER")

    def test_an_empty_batch_has_no_outcomes(self, ipsets):
        assert ipsets.apply([]) == []
