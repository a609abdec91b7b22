"""What every implementation of kernel.api.IpSets does."""

from __future__ import annotations

import random

import pytest

from ipvs_agent import addresses, errors
from ipvs_agent.addresses import Family, parse_address
from ipvs_agent.model import IpSet, Protocol, SetMember, SetType
from ipvs_agent.operations import AddMember, DeleteMember

PORTS = IpSet("PORTS", SetType.HASH_IP_PORT, Family.IPV4)
VIP = parse_address("10.96.0.10")
HTTP = SetMember("PORTS", VIP, Protocol.TCP, 80)
DNS = SetMember("PORTS", VIP, Protocol.UDP, 53)

EVERY_SET = [
    IpSet(f"{kind.value}/{family.name}", kind, family)
    for kind in SetType
    for family in Family
    if kind is not SetType.BITMAP_PORT
]
EVERY_SET.append(IpSet("bitmap:port", SetType.BITMAP_PORT, None))


def kinds(outcomes):
    return [outcome and type(outcome) for outcome in outcomes]


def member_of(ip_set, number):
    """Return a member that fits a set, a different one for each number below 65536."""
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
    return SetMember(ip_set.name, **fields)


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

    @pytest.mark.parametrize(
        "other",
        [
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
