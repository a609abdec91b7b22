"""What rules of nftables do to packet marks, by the octets that the kernel sends of them."""

from __future__ import annotations

import sys

import pytest

from ipvs_agent.kernel.netlink import attribute
from ipvs_agent.kernel.nftables import _deeds
from ipvs_agent.observed import EVERY_BIT

MARK, PRIORITY = 3, 5


def expression(name, *parts):
    """An element of a rule's list of expressions; parts: types and values."""
    data = b"".join(attribute(kind, value) for kind, value in parts)
    return attribute(1, attribute(1, name.encode() + b"\0") + attribute(2, data))


def number(value):
    return value.to_bytes(4)


def value(mark):
    return attribute(1, mark.to_bytes(4, sys.byteorder))


def load(register=1, key=MARK):
    return expression("meta", (1, number(register)), (2, number(key)))


def store(register=1, key=MARK):
    return expression("meta", (2, number(key)), (3, number(register)))


def constant(mark, register=1):
    return expression("immediate", (1, number(register)), (2, value(mark)))


def bitwise(mask, xor, source=1, target=1, length=4):
    registers = ((1, number(source)), (2, number(target)), (3, number(length)))
    return expression("bitwise", *registers, (4, value(mask)), (5, value(xor)))


def verdict(code, chain=""):
    where = attribute(2, chain.encode() + b"\0") if chain else b""
    content = attribute(2, attribute(1, code.to_bytes(4, signed=True)) + where)
    return expression("immediate", (1, number(0)), (2, content))


def lookup(*parts):
    return expression("lookup", (1, b"map\0"), (2, number(1)), *parts)


@pytest.mark.parametrize(
    ("rule", "marks"),
    [
        pytest.param([], 0, id="nothing"),
        pytest.param([constant(7), store()], EVERY_BIT, id="a constant"),
        pytest.param([load(), bitwise(0xFFFFBFFF, 0x4000), store()], 0x4000, id="a bit more"),
        pytest.param([load(), bitwise(0xFFFF00FF, 0x1200), store()], 0xFF00, id="some bits"),
        pytest.param([load(), bitwise(0xFF, 0), bitwise(EVERY_BIT, 1), store()], 0xFFFFFF01, id="twice"),
        pytest.param([load(), bitwise(0xFF, 0, 1, 2), store(2)], 0xFFFFFF00, id="another register"),
        pytest.param([bitwise(0xFF, 0), store()], EVERY_BIT, id="bits of something else"),
        pytest.param([load(), bitwise(0xFF, 0, length=8), store()], EVERY_BIT, id="of more than a mark"),
        pytest.param([load(), expression("hash", (2, number(1))), store()], EVERY_BIT, id="loaded over"),
        pytest.param([load(), store(key=PRIORITY)], 0, id="not a mark"),
        pytest.param([load(key=PRIORITY), store()], EVERY_BIT, id="from what is not a mark"),
        pytest.param([load(), expression("cmp")], 0, id="only asked for"),
        pytest.param([expression("target", (1, b"MARK\0"))], EVERY_BIT, id="a target of iptables"),
        pytest.param([expression("target", (1, b"LOG\0"))], 0, id="another target"),
    ],
)
def test_which_bits_of_a_mark_are_written(rule, marks):
    assert (marks, frozenset(), False) == _deeds(b"".join(rule))


@pytest.mark.parametrize(
    ("rule", "leads_to", "leads_anywhere"),
    [
        pytest.param(verdict(-3, "web"), {"web"}, False, id="jump"),
        pytest.param(verdict(-4, "web"), {"web"}, False, id="goto"),
        pytest.param(verdict(1), set(), False, id="accept"),
        pytest.param(lookup((3, number(0))), set(), True, id="a verdict map"),
        pytest.param(lookup((3, number(1))), set(), False, id="a map of values"),
        pytest.param(lookup(), set(), False, id="a set"),
    ],
)
def test_where_a_rule_leads(rule, leads_to, leads_anywhere):
    assert (0, leads_to, leads_anywhere) == _deeds(rule)
