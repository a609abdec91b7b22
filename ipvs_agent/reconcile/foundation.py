"""What has to be there before the first virtual server: modules, settings, link, sets and rules."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ipvs_agent.addresses import Family
from ipvs_agent.desired import sets, shim
from ipvs_agent.errors import KernelError
from ipvs_agent.kernel.api import Kernel

_MODULES = ("ip_vs", "nf_conntrack", "ip_set_hash_ip", "ip_set_hash_ipport", "ip_set_hash_ipportip", "xt_set")
_SYSCTLS = {
    "net/ipv4/vs/conntrack": "1",  # or POSTROUTING could not masquerade what IPVS sends
    "net/ipv4/vs/expire_nodest_conn": "1",  # flows of a removed real server move at once
    "net/ipv4/vs/expire_quiescent_template": "1",  # affinity does not hold clients to a drained one
    "net/ipv4/ip_forward": "1",
}
_STRICT_ARP = {"net/ipv4/conf/all/arp_ignore": "1", "net/ipv4/conf/all/arp_announce": "2"}


class Needs(msgspec.Struct, frozen=True):
    """What the configuration says of the foundation."""

    scheduler_module: str = "ip_vs_rr"
    masquerade: shim.Masquerade = shim.Masquerade()
    strict_arp: bool = False


class Ground(msgspec.Struct, frozen=True):
    """A foundation that was laid."""

    families: frozenset[Family]
    """The families that this node can serve."""
    written: tuple[str, ...] = ()
    """What had to be done for it, in words."""
    refusals: Mapping[Family, str] = {}
    """Why the other families cannot be served."""


def lay(kernel: Kernel, needs: Needs) -> Ground:
    """Make what is missing of the foundation and leave alone what is right; raise KernelError."""
    kernel.modules.load(*_MODULES, needs.scheduler_module)
    for name, value in (_SYSCTLS | (_STRICT_ARP if needs.strict_arp else {})).items():
        kernel.sysctls.write(name, value)
    kernel.vips.ensure_link()
    families = kernel.iptables.families()
    random_fully = kernel.iptables.supports_random_fully()
    masquerade = msgspec.structs.replace(needs.masquerade, random_fully=random_fully)
    written: list[str] = []
    for family in sorted(families):
        written += _lay_sets(kernel, family)
        text = shim.restore_text(shim.tables(family, masquerade), kernel.iptables.save(family))
        if text:
            kernel.iptables.restore(family, text)
            written.append(f"{family.name} rules")
    return Ground(families, tuple(written), kernel.iptables.refusals())


def _lay_sets(kernel: Kernel, family: Family) -> list[str]:
    present = kernel.ipsets.sets()
    written: list[str] = []
    for wanted in sets.sets_of(family):
        if wanted.name not in present:
            kernel.ipsets.create(wanted)
            written.append(f"set {wanted.name}")
        elif present[wanted.name] != wanted:
            raise KernelError(
                f"ipset {wanted.name} exists, but is not a {wanted.type.value} set of {family.name}: "
                f"remove it with ipset destroy {wanted.name}"
            )
    return written
