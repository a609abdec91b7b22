"""A whole kernel, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from ipvs_agent.testing.fake_conntrack import FakeConntrack
from ipvs_agent.testing.fake_ipsets import FakeIpSets
from ipvs_agent.testing.fake_iptables import FakeIptables
from ipvs_agent.testing.fake_ipvs import FakeIpvs
from ipvs_agent.testing.fake_modules import FakeModules
from ipvs_agent.testing.fake_nftables import FakeNftables
from ipvs_agent.testing.fake_node_addresses import FakeNodeAddresses
from ipvs_agent.testing.fake_sysctls import FakeSysctls
from ipvs_agent.testing.fake_vips import FakeVips


@dataclass
class FakeKernel:
    """A kernel.api.Kernel of a fresh node.

    Its iptables know of its ipsets, and its VIPs of its addresses.
    """

    ipvs: FakeIpvs = field(default_factory=FakeIpvs)
    vips: FakeVips = field(init=False)
    node_addresses: FakeNodeAddresses = field(default_factory=FakeNodeAddresses)
    ipsets: FakeIpSets = field(default_factory=FakeIpSets)
    iptables: FakeIptables = field(init=False)
    nftables: FakeNftables = field(default_factory=FakeNftables)
    conntrack: FakeConntrack = field(default_factory=FakeConntrack)
    sysctls: FakeSysctls = field(default_factory=FakeSysctls)
    modules: FakeModules = field(default_factory=FakeModules)

    def __post_init__(self) -> None:
        self.iptables = FakeIptables(self.ipsets)
        self.vips = FakeVips(self.node_addresses)
