"""What has to be there before the first virtual server: modules, settings, link, sets and rules."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Set

import msgspec

from ipvs_agent.addresses import Family
from ipvs_agent.desired import releases, sets, shim
from ipvs_agent.desired.marks import ForeignWriters, foreign_writers, native_writers
from ipvs_agent.errors import KernelError
from ipvs_agent.kernel.api import IpSets, Kernel
from ipvs_agent.model import IpSet
from ipvs_agent.observed import NativeChain
from ipvs_agent.schedulers import SAFE, SCHEDULERS

_MODULES = (
    "ip_vs",
    "nf_conntrack",
    "ip_set_bitmap_port",
    "ip_set_hash_ip",
    "ip_set_hash_ipport",
    "ip_set_hash_ipportip",
    "ip_set_hash_ipportnet",
    "xt_set",
)
_WISHED = ("ip_vs_sh",)  # for virtual servers by mark of Services with session affinity
EXPIRE_NODEST_CONN = "net/ipv4/vs/expire_nodest_conn"
SYSCTLS: Mapping[str, str] = {
    "net/ipv4/vs/conntrack": "1",  # or POSTROUTING could not masquerade what IPVS sends
    EXPIRE_NODEST_CONN: "1",  # flows of a removed real server move at once
    "net/ipv4/vs/expire_quiescent_template": "1",  # affinity does not hold clients to a drained one
    "net/ipv4/ip_forward": "1",
}
_REUSED_PORTS = {"net/ipv4/vs/conn_reuse_mode": "0"}
_STRICT_ARP = {"net/ipv4/conf/all/arp_ignore": "1", "net/ipv4/conf/all/arp_announce": "2"}


class Needs(msgspec.Struct, frozen=True):
    """What the configuration says of the foundation."""

    scheduler_module: str = "ip_vs_rr"
    masquerade: shim.Masquerade | None = shim.Masquerade()
    """None: it is not known yet, so the rules stay as they are."""
    strict_arp: bool = False


class Ground(msgspec.Struct, frozen=True):
    """A foundation that was laid."""

    families: frozenset[Family]
    """The families that this node serves."""
    written: tuple[str, ...] = ()
    """What had to be done for it, in words."""
    refusals: Mapping[Family, str] = {}
    """Why the tools of a family do not work. One that is served all the same has the rules that it had."""
    undivided: frozenset[Family] = frozenset()
    """The families in which clients inside the cluster cannot be told from those outside for certain."""
    capacities: Mapping[str, int] = {}
    """How many members each set takes."""
    blind: str = ""
    """Why it is not known what rules of nftables do to packet marks; empty where it is."""
    missing_modules: frozenset[str] = frozenset()
    """Modules that are not there, and without which some Services can only be served in another way. Where
    modprobe does not find one, as in a container without /lib/modules, the kernel's own may still do so."""
    loaded_schedulers: frozenset[str] = frozenset()
    absent_schedulers: frozenset[str] = frozenset()
    """Those that the kernel does not have and cannot load, as far as its lists say."""


def lay(
    kernel: Kernel, needs: Needs, before: Ground | None = None, missing_schedulers: Set[str] = frozenset()
) -> Ground:
    """Make what is missing of the foundation and leave alone what is right; raise KernelError.

    A family whose tools fail goes on being served by the rules that it has, as long as there is another one.
    before: what this process has laid before; None: nothing, so no set of it is about to grow.
    missing_schedulers: those that the kernel has not known up to now, and may know by now.
    """
    _load_modules(kernel, needs, missing_schedulers, is_first=before is None)
    missing_modules = frozenset(name for name in _WISHED if not kernel.modules.has(name))
    for name, value in _sysctls(kernel, needs).items():
        kernel.sysctls.write(name, value)
    kernel.vips.ensure_link()
    working, refusals = kernel.iptables.families(), dict(kernel.iptables.refusals())
    families = working | _in_use(kernel, refusals, before)
    written = _remove_drafts(kernel.ipsets) if before is None else []
    written += _lay_sets(kernel, families)
    undivided, blind = families, ""
    if needs.masquerade is not None:
        native, blind = _native_chains(kernel)
        divided, failed = _lay_all_rules(kernel, working, needs.masquerade, native, written)
        if failed and (not divided or failed.keys() - _in_use(kernel, failed, before)):
            raise next(iter(failed.values()))
        refusals |= {family: str(error) for family, error in failed.items()}
        for family in families if blind else families - divided.keys():
            is_divided = _was_divided(family, needs.masquerade, before)
            divided[family] = is_divided and divided.get(family, True)
        undivided = frozenset(family for family in families if not divided[family])
    capacities = {name: ip_set.capacity for name, ip_set in kernel.ipsets.sets().items() if ip_set}
    return Ground(
        families,
        tuple(written),
        refusals,
        undivided,
        capacities,
        blind,
        missing_modules,
        frozenset(name for name, one in SCHEDULERS.items() if kernel.modules.has(one.module)),
        frozenset(name for name, one in SCHEDULERS.items() if not kernel.modules.may_have(one.module)),
    )


def still_missing(missing_schedulers: Set[str], ground: Ground, before: Ground | None) -> set[str]:
    """Return the schedulers that the kernel does not know, of those that it did not know and by its lists.

    That a module is there does not say that the kernel knows it; that it has come since is worth another try.
    """
    if before is None:
        return {*missing_schedulers, *ground.absent_schedulers}
    have_come = ground.loaded_schedulers - before.loaded_schedulers
    have_come |= before.absent_schedulers - ground.absent_schedulers
    return {*missing_schedulers, *ground.absent_schedulers} - have_come


def _load_modules(kernel: Kernel, needs: Needs, missing_schedulers: Set[str], *, is_first: bool) -> None:
    kernel.modules.load(*_MODULES)
    wished = {needs.scheduler_module, *(f"ip_vs_{name}" for name in missing_schedulers)}
    names = [name for name in sorted(wished) if kernel.modules.may_have(name)]
    kernel.modules.try_to_load(*names, *(_WISHED if is_first else ()))
    if not kernel.modules.has(needs.scheduler_module):
        kernel.modules.load(SCHEDULERS[SAFE].module)


def _sysctls(kernel: Kernel, needs: Needs) -> Mapping[str, str]:
    wanted = dict(SYSCTLS)
    if needs.strict_arp:
        wanted |= _STRICT_ARP
    if releases.drops_reused_ports(kernel.sysctls.read("kernel/osrelease")):
        wanted |= _REUSED_PORTS
    return wanted


def _in_use(kernel: Kernel, families: Iterable[Family], before: Ground | None) -> frozenset[Family]:
    """Return those of some families that clients may use already, by this process or an agent before it."""
    candidates = frozenset(families) - kernel.iptables.switched_off()
    served = before.families if before is not None else frozenset()
    return frozenset(family for family in candidates if family in served or _has_ledger(kernel, family))


def _has_ledger(kernel: Kernel, family: Family) -> bool:
    """Tell whether virtual servers of ours are named, which are made only where the rules are."""
    name = sets.set_name(sets.Purpose.SERVICES, family)
    return name in kernel.ipsets.sets() and bool(kernel.ipsets.members(name))


def _native_chains(kernel: Kernel) -> tuple[Collection[NativeChain], str]:
    """Return what only nftables has, or why it cannot be read: clients are served all the same."""
    try:
        return kernel.nftables.chains(), ""
    except KernelError as error:
        return (), str(error)


def _lay_all_rules(
    kernel: Kernel,
    families: Iterable[Family],
    masquerade: shim.Masquerade,
    native: Collection[NativeChain],
    written: list[str],
) -> tuple[dict[Family, bool], dict[Family, KernelError]]:
    """Write the rules where they differ; return the answers of `_lay_rules`, and what failed."""
    divided: dict[Family, bool] = {}
    failed: dict[Family, KernelError] = {}
    for family in sorted(families):
        try:
            writers = native_writers(native, family)
            divided[family] = _lay_rules(kernel, family, masquerade, writers, written)
        except KernelError as error:
            failed[family] = error
    return divided, failed


def _was_divided(family: Family, masquerade: shim.Masquerade, before: Ground | None) -> bool:
    """Return what `_lay_rules` would probably say of rules that cannot be looked at."""
    if before is not None and family in before.families:
        return family not in before.undivided
    return bool(masquerade.inside(family))


def _lay_rules(
    kernel: Kernel,
    family: Family,
    masquerade: shim.Masquerade,
    native: ForeignWriters,
    written: list[str],
) -> bool:
    """Write the rules where they differ; return whether they tell clients inside the cluster for certain."""
    saved = kernel.iptables.save(family)
    writers = foreign_writers(saved)
    masquerade = msgspec.structs.replace(
        masquerade,
        writes_marks=not (writers.of_tags or native.of_tags),
        random_fully=kernel.iptables.supports_random_fully(),
    )
    text = shim.restore_text(shim.tables(family, masquerade), saved)
    if text:
        try:
            kernel.iptables.restore(family, text)
        except KernelError:
            if masquerade.random_fully and not kernel.iptables.supports_random_fully():
                return _lay_rules(kernel, family, masquerade, native, written)
            raise
        written.append(f"{family.name} rules")
    return bool(masquerade.inside(family)) and not (writers.of_marks or native.of_marks)


def _remove_drafts(ipsets: IpSets) -> list[str]:
    """Remove what is left of an agent that was killed while a set of it grew."""
    removed: list[str] = []
    for name in sorted(filter(sets.is_draft, ipsets.sets())):
        with contextlib.suppress(KernelError):
            ipsets.destroy(name)
            removed.append(f"set {name} removed")
    return removed


def _lay_sets(kernel: Kernel, families: Iterable[Family]) -> list[str]:
    present = kernel.ipsets.sets()
    written: list[str] = []
    for wanted in dict.fromkeys(ip_set for family in sorted(families) for ip_set in sets.sets_of(family)):
        if wanted.name not in present:
            kernel.ipsets.create(wanted)
            written.append(f"set {wanted.name}")
        elif not _is_alike(present[wanted.name], wanted):
            raise KernelError(
                f"ipset {wanted.name} exists, but is not the {wanted.type.value} set that the agent needs: "
                f"remove it with ipset destroy {wanted.name}"
            )
    return written


def _is_alike(present: IpSet | None, wanted: IpSet) -> bool:
    """Compare sets apart from their capacity, which grows with their members."""
    return present is not None and msgspec.structs.replace(present, capacity=wanted.capacity) == wanted
