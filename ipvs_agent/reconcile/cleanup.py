"""Removing what the agent made, and only that."""

from __future__ import annotations

import msgspec

from ipvs_agent.addresses import Family
from ipvs_agent.desired import sets, shim
from ipvs_agent.errors import KernelError, MissingModule, NotFound
from ipvs_agent.kernel.api import Kernel
from ipvs_agent.model import SetMember, Vip, VipForm, VirtualServerKey
from ipvs_agent.operations import LINK, DeleteVip, DeleteVirtualServer


class RulesRemoval(msgspec.Struct, frozen=True):
    """What is to be removed with one of the node's iptables tools."""

    flavour: str
    family: Family
    text: str
    """Input of iptables-restore."""

    def lines(self) -> list[str]:
        """Return the removal as commands."""
        tool = f"{'iptables' if self.family is Family.IPV4 else 'ip6tables'}{self.flavour}"
        lines = []
        table = ""
        for line in self.text.splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line != "COMMIT":
                lines.append(f"{tool} -t {table} {line}")
        return lines


class Removal(msgspec.Struct, frozen=True):
    """What is to be removed, in this order."""

    vips: tuple[Vip, ...]
    virtual_servers: tuple[VirtualServerKey, ...]
    rules: tuple[RulesRemoval, ...]
    sets: tuple[str, ...]
    removes_link: bool

    def lines(self) -> list[str]:
        """Return the removal as commands."""
        lines = [str(DeleteVip(vip.address, vip.form)) for vip in self.vips]
        lines += [str(DeleteVirtualServer(key)) for key in self.virtual_servers]
        for rules in self.rules:
            lines += rules.lines()
        lines += [f"ipset destroy {name}" for name in self.sets]
        if self.removes_link:
            lines.append(f"ip link del {LINK}")
        return lines


def plan(kernel: Kernel) -> Removal:
    """Find what is ours by its names and by the ledger; raise KernelError."""
    names = sorted(name for name in kernel.ipsets.sets() if sets.is_our_name(name))
    ledger = {ip_set.name for family in Family for ip_set in sets.sets_of(family)}
    members: set[SetMember] = set()
    for name in names:
        if name in ledger:
            members |= kernel.ipsets.members(name)
    addresses = kernel.vips.addresses()
    bound = {vip for vip in addresses if sets.is_vip(vip, members)}
    vips = [Vip(address, VipForm.ADDRESS) for address in bound]
    vips += [Vip(address, VipForm.ROUTE) for address in kernel.vips.routes()]
    belongs_to_nobody = addresses == bound and not kernel.vips.has_other_routes()
    rules = [
        RulesRemoval(found.flavour, found.family, text)
        for found in kernel.iptables.all_rules()
        if (text := shim.removal_text(found.saved))
    ]
    return Removal(
        vips=tuple(sorted(vips)),
        virtual_servers=tuple(sorted(sets.ours(_present(kernel), members))),
        rules=tuple(rules),
        sets=tuple(names),
        # An interface that still holds an address or a route of somebody else's stays.
        removes_link=kernel.vips.link_is_ours() and belongs_to_nobody,
    )


def _present(kernel: Kernel) -> set[VirtualServerKey]:
    try:
        return {observed.virtual_server.key for observed in kernel.ipvs.virtual_servers()}
    except MissingModule:
        return set()  # its virtual servers went with it


def carry_out(kernel: Kernel, removal: Removal) -> list[KernelError]:
    """Remove what was planned; return what could not be removed. What is gone already is no failure.

    The sets say what is ours, and the rules guard what is served: both stay while any of that is left.
    """
    outcomes = kernel.vips.apply([DeleteVip(vip.address, vip.form) for vip in removal.vips])
    if removal.virtual_servers:
        outcomes += kernel.ipvs.apply([DeleteVirtualServer(key) for key in removal.virtual_servers])
    errors = [error for error in outcomes if error is not None and not isinstance(error, NotFound)]
    if errors:
        return errors
    for rules in removal.rules:
        try:
            kernel.iptables.restore(rules.family, rules.text, rules.flavour)
        except KernelError as error:
            errors.append(error)
    for name in removal.sets:
        try:
            kernel.ipsets.destroy(name)
        except NotFound:
            pass
        except KernelError as error:
            errors.append(error)
    if not errors:
        try:
            (kernel.vips.remove_link if removal.removes_link else kernel.vips.tidy)()
        except NotFound:
            pass
        except KernelError as error:
            errors.append(error)
    return errors
