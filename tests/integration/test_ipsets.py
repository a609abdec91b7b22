"""Ipsets on the real kernel, with `ipset` and `iptables` as witnesses."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess

import msgspec
import pytest

from ipvs_agent import errors
from ipvs_agent.addresses import Family
from ipvs_agent.kernel import ipset_codec
from ipvs_agent.kernel.ipsets import NetlinkIpSets
from ipvs_agent.kernel.netlink import NETLINK_NETFILTER, NLM_F_DUMP, NLM_F_REQUEST
from ipvs_agent.model import IpSet, Protocol, SetMember, SetType
from ipvs_agent.operations import AddMember, DeleteMember
from tests.contract.ipsets import EVERY_SET, HTTP, MARKS, PORTS, VIP, IpSetsContract, member_of

LIST = 6 << 8 | 7  # NFNL_SUBSYS_IPSET, IPSET_CMD_LIST


def run(*words, text=None):
    return subprocess.run(words, input=text, capture_output=True, text=True, check=True).stdout


def saved(name):
    """Return the members of a set as `ipset save` prints them."""
    lines = run("ipset", "save", name).splitlines()
    return {line.removeprefix(f"add {name} ") for line in lines if line.startswith("add ")}


def printed(ip_set, member):
    """Return a member as `ipset save` prints it: without the prefix of a single address."""
    full = 32 if ip_set.family is Family.IPV4 else 128
    words = str(member).split(" ")
    return " ".join([words[0].removesuffix(f"/{full}"), *words[1:]])


@pytest.fixture
def ipsets(namespace):
    with contextlib.closing(NetlinkIpSets()) as ipsets:
        yield ipsets


class TestNetlinkIpSets(IpSetsContract):
    @pytest.mark.parametrize("ip_set", [pytest.param(each, id=each.name) for each in EVERY_SET])
    def test_ipset_prints_the_set_as_it_was_asked_for(self, ipsets, ip_set):
        if ip_set.type is SetType.BITMAP_PORT:
            options = "range 0-65535"
        else:
            ip_set = msgspec.structs.replace(ip_set, capacity=70_000)
            family = {Family.IPV4: "inet", Family.IPV6: "inet6"}[ip_set.family]
            options = f"family {family} hashsize 1024 maxelem 70000"
        ipsets.create(ip_set)

        (line,) = run("ipset", "save", ip_set.name).splitlines()
        assert line.startswith(f"create {ip_set.name} {ip_set.type.value} {options}")
        assert ip_set.has_marks == ("skbinfo" in line.split())

    @pytest.mark.parametrize("ip_set", [pytest.param(each, id=each.name) for each in EVERY_SET])
    def test_ipset_prints_the_members_as_operations_print_them(self, ipsets, ip_set):
        members = [member_of(ip_set, number) for number in range(1, 100)]
        ipsets.create(ip_set)

        ipsets.apply([AddMember(member) for member in members])

        assert {printed(ip_set, member) for member in members} == saved(ip_set.name)

    @pytest.mark.parametrize("ip_set", [pytest.param(each, id=each.name) for each in EVERY_SET])
    def test_what_ipset_adds_is_read_and_can_be_deleted(self, ipsets, ip_set):
        members = {member_of(ip_set, number) for number in range(1, 100)}
        ipsets.create(ip_set)
        lines = [f"add {ip_set.name} {member}\n" for member in members]
        run("ipset", "restore", text="".join(lines))

        assert members == ipsets.members(ip_set.name)
        assert [None] * 99 == ipsets.apply([DeleteMember(member) for member in members])
        assert set() == saved(ip_set.name)

    def test_a_mark_that_keeps_bits_of_the_packets_own_is_none_of_ours_and_is_replaced(self, ipsets):
        ipsets.create(MARKS)
        run("ipset", "add", "MARKS", "10.96.0.10,tcp:80", "skbmark", "0x7/0xff")
        member = SetMember("MARKS", VIP, Protocol.TCP, 80)

        assert {member} == ipsets.members("MARKS")
        ipsets.apply([AddMember(msgspec.structs.replace(member, mark=0x7))])

        assert {"10.96.0.10,tcp:80 skbmark 0x7"} == saved("MARKS")

    def test_ten_thousand_members_go_and_come(self, ipsets):
        hairpin = IpSet("HAIRPIN", SetType.HASH_IP_PORT_IP, Family.IPV6)
        members = {member_of(hairpin, number) for number in range(1, 10_001)}
        ipsets.create(hairpin)

        assert [None] * 10_000 == ipsets.apply([AddMember(member) for member in members])
        assert members == ipsets.members("HAIRPIN")

    def test_a_set_of_a_foreign_type_is_listed_without_one(self, ipsets):
        run("ipset", "create", "theirs", "hash:net")
        run("ipset", "create", "some ports", "bitmap:port", "range", "0-1023")
        ipsets.create(PORTS)

        assert {"theirs": None, "some ports": None, "PORTS": PORTS} == ipsets.sets()

    def test_the_members_of_a_foreign_set_cannot_be_read(self, ipsets):
        run("ipset", "create", "theirs", "bitmap:port", "range", "0-1023")

        with pytest.raises(errors.InvalidRequest, match="bitmap:port"):
            ipsets.members("theirs")

    def test_a_set_that_a_rule_refers_to_is_busy(self, ipsets):
        ipsets.create(PORTS)
        run("iptables", "-A", "INPUT", "-m", "set", "--match-set", "PORTS", "dst,dst")

        with pytest.raises(errors.Busy):
            ipsets.destroy("PORTS")

        run("iptables", "-F", "INPUT")
        ipsets.destroy("PORTS")

    def test_extensions_of_a_set_made_by_others_are_passed_over(self, ipsets):
        run("ipset", "create", "PORTS", "hash:ip,port", "comment", "counters", "timeout", "600")
        run("ipset", "add", "PORTS", "10.96.0.10,tcp:80", "comment", "web")

        assert {HTTP} == ipsets.members("PORTS")

    def test_reading_leaves_no_dump_open_that_would_block_a_swap(self, ipsets):
        ipsets.create(PORTS)
        ipsets.create(IpSet("NEXT", SetType.HASH_IP_PORT, Family.IPV4))
        ipsets.apply([AddMember(member_of(PORTS, number)) for number in range(1, 5000)])
        ipsets.members("PORTS")
        ipsets.sets()

        ipsets.swap("PORTS", "NEXT")
        ipsets.destroy("PORTS")

        assert 4999 == len(ipsets.members("NEXT"))

    def test_sets_that_somebody_is_listing_cannot_be_swapped(self, ipsets):
        ipsets.create(PORTS)
        ipsets.create(IpSet("NEXT", SetType.HASH_IP_PORT, Family.IPV4))
        ipsets.apply([AddMember(member_of(PORTS, number)) for number in range(1, 5000)])
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as somebody:
            payload = ipset_codec.name_of("PORTS")
            header = struct.pack("=IHHII", 16 + len(payload), LIST, NLM_F_REQUEST | NLM_F_DUMP, 1, 0)
            somebody.send(header + payload)  # and reads no more than the kernel has ready

            with pytest.raises(errors.Busy):
                ipsets.swap("PORTS", "NEXT")

        ipsets.swap("PORTS", "NEXT")
        assert 4999 == len(ipsets.members("NEXT"))

    def test_a_range_without_prefix_is_one_address(self, ipsets):
        ipsets.create(IpSet("RANGES", SetType.HASH_IP_PORT_NET, Family.IPV4))

        ipsets.apply([AddMember(SetMember("RANGES", VIP, 6, 80, VIP))])

        assert {"10.96.0.10,tcp:80,10.96.0.10"} == saved("RANGES")
