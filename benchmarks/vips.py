"""VIPs as addresses and as local routes: what many of them cost at once, and one more beside them."""

from __future__ import annotations

import itertools
import socket
import statistics
import time
from collections.abc import Sequence
from contextlib import closing

from benchmarks import progress, results, table
from benchmarks.bench import namespace
from benchmarks.sizes import Size
from ipvs_agent.addresses import Address, Family
from ipvs_agent.kernel.vips import NetlinkVips
from ipvs_agent.model import VipForm
from ipvs_agent.operations import AddVip, DeleteVip, VipOperation
from tools.lab import talk

SIZES = tuple(Size(services, 1) for services in (100, 500, 1_000, 2_000))
LARGE = tuple(Size(services, 1) for services in (10_000, 40_000))
"""Of IPv6, 40,000 addresses take a quarter of an hour: the kernel walks all for each that goes."""
_ONES = 20
"""How many are added alone, of which the median is taken."""
_FIGURES = ("add_ms", "add_one_ms", "read_ms", "remove_ms")
_BASES = {Family.IPV4: Address(b"\x0a\x60\0\0"), Family.IPV6: Address(b"\xfd\x00\x00\x96" + bytes(12))}


def main(sizes: Sequence[Size] = SIZES) -> bool:
    """Print a table for each family; no goal, but `vip_forms.MOST_ADDRESSES` comes from here.

    Of the sizes only the Services count: one VIP each.
    """
    socket.socket(socket.AF_INET6).close()  # loads IPv6 where it is a module, before a namespace is made
    steps = progress.Steps(len(Family) * len(sizes) * len(VipForm), "VIPs")
    for family in Family:
        rows: list[results.Row] = []
        for size, form in itertools.product(sizes, VipForm):
            steps.begin(f"{size.services:,} of {family.name}, each as {form.name.lower()}")
            figures = _measure(family, form, size.services)
            rows.append({"form": form.name.lower(), "vips": size.services, **figures})
        progress.say("")
        results.keep(f"vips {family.name}", rows)
        table.show(
            f"{family.name} VIPs on kube-ipvs0, without virtual servers: ms",
            ("form", "VIPs", "add all", "add one more", "read all", "remove all"),
            [(row["form"], f"{row['vips']:,}", *(f"{row[name]:,.2f}" for name in _FIGURES)) for row in rows],
        )
    return True


def _measure(family: Family, form: VipForm, size: int) -> results.Row:
    addresses = [_address(family, number) for number in range(size + _ONES)]
    many, ones = addresses[:size], addresses[size:]
    with namespace() as name, talk.inside(name), closing(NetlinkVips()) as vips:
        vips.ensure_link()
        adding = _apply(vips, [AddVip(address, form) for address in many])
        ones_alone = [_apply(vips, [AddVip(address, form)]) for address in ones]
        started = time.perf_counter()
        found = vips.routes() if form is VipForm.ROUTE else vips.addresses()
        reading = time.perf_counter() - started
        if len(found) != len(addresses):
            raise RuntimeError(f"{len(found)} of {len(addresses)} VIPs are there")
        removing = _apply(vips, [DeleteVip(address, form) for address in addresses])
    seconds = (adding, statistics.median(ones_alone), reading, removing)
    return {name: 1000 * each for name, each in zip(_FIGURES, seconds, strict=True)}


def _address(family: Family, number: int) -> Address:
    base = _BASES[family]
    return Address((int.from_bytes(base) + number + 1).to_bytes(len(base)))


def _apply(vips: NetlinkVips, operations: Sequence[VipOperation]) -> float:
    """Return how many seconds a batch takes."""
    started = time.perf_counter()
    failures = [error for error in vips.apply(operations) if error is not None]
    seconds = time.perf_counter() - started
    if failures:
        raise failures[0]
    return seconds
