"""The kernel of the node that the agent runs on."""

from __future__ import annotations

import contextlib
import functools

from ipvs_agent.kernel.conntrack import NetlinkConntrack
from ipvs_agent.kernel.ipsets import NetlinkIpSets
from ipvs_agent.kernel.iptables import NodeIptables
from ipvs_agent.kernel.ipvs import NetlinkIpvs
from ipvs_agent.kernel.modules import NodeModules
from ipvs_agent.kernel.nftables import NetlinkNftables
from ipvs_agent.kernel.node_addresses import NetlinkNodeAddresses
from ipvs_agent.kernel.sysctls import ProcSysctls
from ipvs_agent.kernel.vips import NetlinkVips


class NodeKernel:
    """A kernel.api.Kernel for the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._adapters = contextlib.ExitStack()
        self.vips = self._adapters.enter_context(contextlib.closing(NetlinkVips()))
        self.node_addresses = self._adapters.enter_context(contextlib.closing(NetlinkNodeAddresses()))
        self.sysctls = ProcSysctls()
        self.modules = NodeModules()
        self.iptables = NodeIptables(self.modules)

    @functools.cached_property
    def ipvs(self) -> NetlinkIpvs:
        """Return virtual servers and real servers; MissingModule where the kernel has no IPVS."""
        return self._adapters.enter_context(contextlib.closing(NetlinkIpvs()))

    @functools.cached_property
    def ipsets(self) -> NetlinkIpSets:
        """Return the ipsets; the socket has the kernel load nfnetlink, which `check` must not bring about."""
        return self._adapters.enter_context(contextlib.closing(NetlinkIpSets()))

    @functools.cached_property
    def conntrack(self) -> NetlinkConntrack:
        """Return the connection tracking table, which is rarely asked."""
        return self._adapters.enter_context(contextlib.closing(NetlinkConntrack()))

    @functools.cached_property
    def nftables(self) -> NetlinkNftables:
        """Return the rules that only nftables has."""
        return self._adapters.enter_context(contextlib.closing(NetlinkNftables(self.modules)))

    def close(self) -> None:
        """Close the netlink sockets."""
        self._adapters.close()
