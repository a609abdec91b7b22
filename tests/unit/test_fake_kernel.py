"""The small stand-ins, and the faults in front of them."""

from __future__ import annotations

import random

import pytest

from ipvs_agent import errors
from ipvs_agent.addresses import Family, parse_address
from ipvs_agent.model import IpSet, SetType
from ipvs_agent.observed import Hook, NativeChain
from ipvs_agent.operations import AddVip
from ipvs_agent.testing.fake_conntrack import FakeConntrack, FakeFlow
from ipvs_agent.testing.fake_kernel import FakeKernel
from ipvs_agent.testing.fake_modules import FakeModules
from ipvs_agent.testing.fake_nftables import FakeNftables
from ipvs_agent.testing.fake_node_addresses import FakeNodeAddresses
from ipvs_agent.testing.fake_sysctls import FakeSysctls
from ipvs_agent.testing.faulty import FaultyKernel
from tests.contract.conntrack import ConntrackContract
from tests.contract.modules import ModulesContract
from tests.contract.nftables import BOTH, NftablesContract
from tests.contract.node_addresses import NodeAddressesContract
from tests.contract.sysctls import NAME, SysctlsContract

VIPS = [parse_address(f"10.96.0.{number}") for number in range(1, 201)]


class TestFakeSysctls(SysctlsContract):
    @pytest.fixture
    def sysctls(self):
        return FakeSysctls()

    def test_what_differs_cannot_be_written_to_a_read_only_proc(self, sysctls):
        sysctls.read_only = True

        sysctls.write(NAME, "0")
        with pytest.raises(errors.PermissionDenied):
            sysctls.write(NAME, "1")

    def test_only_what_differed_counts_as_written(self, sysctls):
        sysctls.write(NAME, "0")
        sysctls.write(NAME, "2")
        sysctls.write(NAME, "2")

        assert [(NAME, "2")] == sysctls.written


class TestFakeModules(ModulesContract):
    @pytest.fixture
    def modules(self):
        modules = FakeModules()
        modules.missing.add("ip_vs_nope")
        return modules

    def test_loaded_modules_are_known(self, modules):
        modules.load("ip_vs_wrr")

        assert {"ip_vs_wrr"} == modules.loaded


class TestFakeNodeAddresses(NodeAddressesContract):
    @pytest.fixture
    def node_addresses(self):
        return FakeNodeAddresses()

    @pytest.fixture
    def assign(self, node_addresses):
        return node_addresses.assign

    def test_vips_are_not_the_nodes_own(self, node_addresses):
        with pytest.raises(ValueError, match="kube-ipvs0"):
            node_addresses.assign("kube-ipvs0", ["10.96.0.1"])


class TestFakeNftables(NftablesContract):
    @pytest.fixture
    def nftables(self):
        return FakeNftables()

    @pytest.fixture
    def lay(self, nftables):
        return nftables.lay

    def test_no_chain_leads_out_of_its_table(self, nftables):
        chains = [
            NativeChain(BOTH, "inet wall", "input", Hook.INPUT, leads_to=frozenset({"web"})),
            NativeChain(BOTH, "inet other", "web"),
        ]
        with pytest.raises(ValueError, match=r"inet wall has no chains \['web'\]"):
            nftables.lay(chains)


class TestFakeConntrack(ConntrackContract):
    @pytest.fixture
    def conntrack(self):
        return FakeConntrack()

    @pytest.fixture
    def track(self, conntrack):
        return lambda flow: conntrack.flows.append(FakeFlow(*flow))

    @pytest.fixture
    def lead(self, conntrack):
        return lambda flow: conntrack.flows.append(FakeFlow(*flow, is_led_by_nat=True))

    @pytest.fixture
    def tracked(self, conntrack):
        return lambda: {
            (flow.protocol, flow.destination, flow.destination_port, flow.reply_source)
            for flow in conntrack.flows
        }


def test_rules_of_a_fake_kernel_hold_its_sets():
    kernel = FakeKernel()
    kernel.ipsets.create(IpSet("VIPS", SetType.HASH_IP, Family.IPV4))
    kernel.iptables.restore(Family.IPV4, "*filter\n-A INPUT -m set --match-set VIPS dst -j DROP\nCOMMIT\n")

    with pytest.raises(errors.Busy):
        kernel.ipsets.destroy("VIPS")


class TestFaultyKernel:
    @pytest.fixture
    def kernel(self):
        kernel = FakeKernel()
        kernel.vips.ensure_link()
        return kernel

    def test_what_fails_has_not_been_done_and_the_rest_has(self, kernel):
        faulty = FaultyKernel(kernel, random.Random(1), rate=0.5)

        outcomes = faulty.vips.apply([AddVip(vip) for vip in VIPS])

        done = {vip for vip, outcome in zip(VIPS, outcomes, strict=True) if outcome is None}
        assert done == kernel.vips.addresses()
        assert 50 < len(done) < 150

    def test_the_same_seed_fails_the_same_operations(self, kernel):
        batch = [AddVip(vip) for vip in VIPS]
        one, other = (FaultyKernel(FakeKernel(), random.Random(7)).vips.apply(batch) for _ in range(2))

        assert [str(outcome) for outcome in one] == [str(outcome) for outcome in other]

    def test_errors_of_the_kernel_itself_keep_their_places(self, kernel):
        kernel.vips.apply([AddVip(VIPS[0]), AddVip(VIPS[199])])

        outcomes = FaultyKernel(kernel, random.Random(1), rate=0).vips.apply([AddVip(vip) for vip in VIPS])

        assert [0, 199] == [index for index, outcome in enumerate(outcomes) if outcome]

    def test_calls_fail_too(self, kernel):
        faulty = FaultyKernel(kernel, random.Random(1), rate=1)

        with pytest.raises(errors.KernelError, match="injected"):
            faulty.vips.addresses()

    def test_at_rate_0_all_is_well(self, kernel):
        faulty = FaultyKernel(kernel, random.Random(1), rate=1)
        faulty.rate = 0

        assert [None] == faulty.vips.apply([AddVip(VIPS[0])])
        assert {VIPS[0]} == faulty.vips.addresses()
