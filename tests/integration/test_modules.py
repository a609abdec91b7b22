"""Kernel modules, with /proc/modules as witness."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipvs_agent import errors
from ipvs_agent.kernel.modules import NodeModules
from tests.contract.modules import ModulesContract

# All that the agent loads or that its rules need.
NEEDED = [
    "ip_vs",
    "ip_vs_rr",
    "ip_vs_wrr",
    "ip_vs_lc",
    "ip_vs_wlc",
    "ip_vs_lblc",
    "ip_vs_lblcr",
    "ip_vs_dh",
    "ip_vs_sh",
    "ip_vs_sed",
    "ip_vs_nq",
    "ip_vs_mh",
    "ip_vs_fo",
    "ip_vs_ovf",
    "nf_conntrack",
    "dummy",
    "ip_set",
    "ip_set_hash_ip",
    "ip_set_hash_ipport",
    "ip_set_hash_ipportip",
    "ip_set_hash_ipportnet",
    "xt_set",
    "xt_mark",
    "xt_conntrack",
    "xt_comment",
    "xt_MASQUERADE",
]


class TestNodeModules(ModulesContract):
    @pytest.fixture
    def modules(self):
        return NodeModules()

    @pytest.mark.parametrize("name", NEEDED)
    def test_what_the_agent_needs_is_there_once_loaded(self, modules, name):
        modules.load(name)

        loaded = {line.split()[0] for line in Path("/proc/modules").read_text().splitlines()}
        assert name in loaded

    def test_a_built_in_module_needs_no_modprobe(self, modules, monkeypatch, tmp_path):
        """Found by the kernel's own list, for those without parameters are not in /sys/module."""
        (release,) = Path("/proc/sys/kernel/osrelease").read_text().split()
        listed = Path("/lib/modules", release, "modules.builtin").read_text().split()
        monkeypatch.setenv("PATH", str(tmp_path))

        for path in listed:
            modules.load(Path(path).stem)

    def test_without_modprobe_the_error_says_what_to_install(self, modules, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))

        with pytest.raises(errors.MissingModule, match="install the package kmod"):
            modules.load("ip_vs_nope")

    def test_without_the_nodes_modules_the_error_says_what_to_mount(self, tmp_path):
        with pytest.raises(errors.MissingModule, match="mount the node's /lib/modules"):
            NodeModules(installed=tmp_path).load("ip_vs_nope")
