"""Looking at a node without changing anything: no module is loaded, no setting and no rule is written.

What would have the kernel load a module to answer (IPVS, ipset, iptables) is asked only where it is there
already; without it there is nothing to be told. One exception: where only the legacy kind of iptables is in
use, the tools of the other kind have the kernel load nf_tables to learn that it holds no rules.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ipvs_agent.addresses import Family, family_of
from ipvs_agent.check import findings
from ipvs_agent.check.facts import Facts, ModuleState, Setting
from ipvs_agent.config import AgentConfig, LocalMode
from ipvs_agent.desired import sets
from ipvs_agent.errors import NotFound
from ipvs_agent.kernel import rtnetlink
from ipvs_agent.kernel.api import Kernel
from ipvs_agent.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from ipvs_agent.model import VirtualServerKey
from ipvs_agent.operations import LINK

# There on every kernel, so it tells whether /proc/sys can be written before ip_vs has brought its own.
_ALWAYS_THERE = "net/ipv4/ip_forward"
_NO_IPV6 = "net/ipv6/conf/default/disable_ipv6"


class Files(msgspec.Struct, frozen=True):
    """Where the kernel shows what it has."""

    loaded: Path = Path("/sys/module")
    installed: Path = Path("/lib/modules") / os.uname().release
    settings: Path = Path("/proc/sys")


def observe(kernel: Kernel, config: AgentConfig, files: Files) -> Facts:
    """Look at a node; raise KernelError."""
    modules = _modules(findings.modules_to_look_at(config), files)
    has_ipvs = modules["ip_vs"] is ModuleState.THERE
    bridge = config.detect_local.mode is LocalMode.BRIDGE_INTERFACE and config.detect_local.interface
    addresses = kernel.node_addresses.addresses().values()
    release = _read(kernel, "kernel/osrelease") or ""
    return Facts(
        release=release,
        modules=modules,
        tools=frozenset(tool for tool in findings.TOOLS if shutil.which(tool)),
        settings={name: _setting(kernel, name, files) for name in findings.settings(config, release)},
        has_ipv6=_read(kernel, _NO_IPV6) == "0",
        rules=tuple(kernel.iptables.all_rules()) if _has_rules(modules) else (),
        native=tuple(kernel.nftables.chains()),
        families=frozenset(family_of(address) for held in addresses for address in held),
        link_kind=_link_kind(LINK),
        link_is_ours=kernel.vips.link_is_ours(),
        bridge_is_there=not bridge or _link_kind(bridge) is not None,
        foreign=_foreign(kernel, has_sets=modules["ip_set"] is ModuleState.THERE) if has_ipvs else (),
    )


def _modules(names: tuple[str, ...], files: Files) -> dict[str, ModuleState]:
    built_in = _listed(files.installed / "modules.builtin")
    # A line of modules.dep is "kernel/net/netfilter/xt_set.ko.xz: what it needs".
    installed = _listed(files.installed / "modules.dep")
    elsewhere = ModuleState.MISSING if files.installed.is_dir() else ModuleState.UNKNOWN

    def state(name: str) -> ModuleState:
        if (files.loaded / name).is_dir() or name in built_in:
            return ModuleState.THERE
        return ModuleState.INSTALLED if name in installed else elsewhere

    return {name: state(name) for name in names}


def _has_rules(modules: Mapping[str, ModuleState]) -> bool:
    return any(modules[name] is ModuleState.THERE for name in findings.BACKENDS)


def _listed(path: Path) -> set[str]:
    """Return the names of the modules whose files a list names first in its lines."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return set()
    files = (line.partition(":")[0] for line in lines)
    return {file.rpartition("/")[2].partition(".ko")[0].replace("-", "_") for file in files}


def _setting(kernel: Kernel, name: str, files: Files) -> Setting:
    value = _read(kernel, name)
    witness = name if value is not None else _ALWAYS_THERE
    return Setting(value, os.access(files.settings / witness, os.W_OK))


def _read(kernel: Kernel, name: str) -> str | None:
    try:
        return kernel.sysctls.read(name)
    except NotFound:
        return None


def _link_kind(name: str) -> str | None:
    """Return what a network interface was made as; None where there is none of that name."""
    with contextlib.closing(NetlinkSocket(NETLINK_ROUTE)) as sock:
        link = rtnetlink.find_link(sock, name)
    return None if link is None else link.kind


def _foreign(kernel: Kernel, *, has_sets: bool) -> tuple[VirtualServerKey, ...]:
    present = {observed.virtual_server.key for observed in kernel.ipvs.virtual_servers()}
    ledgers = {sets.set_name(sets.Purpose.SERVICES, family) for family in Family}
    names = ledgers & kernel.ipsets.sets().keys() if has_sets else ()
    members = [member for name in names for member in kernel.ipsets.members(name)]
    return tuple(sorted(present - sets.ours(present, members)))
