"""When modprobe is asked, and for what, with a script in its place."""

from __future__ import annotations

import os

import pytest

from ipvs_agent import errors
from ipvs_agent.kernel import modules
from ipvs_agent.kernel.modules import NodeModules


class Node:
    """A node that tells what modprobe was asked for, and has all modules but those that a file names."""

    def __init__(self, folder):
        self.loaded = folder / "loaded"
        installed = folder / "installed"
        self.release = release = installed / os.uname().release
        self._calls = folder / "calls"
        self.missing = folder / "missing"
        self.loaded.mkdir()
        release.mkdir(parents=True)
        (release / "modules.builtin").write_text("kernel/net/netfilter/xt_mark.ko\n")
        self.missing.touch()
        self.modules = NodeModules(self.loaded, installed)
        script = folder / "modprobe"
        script.write_text(f"""#!/bin/bash
            echo "$*" >>{self._calls}
            result=0
            for name in "${{@:4}}"; do
                if /bin/grep -qx "$name" {self.missing}; then
                    result=1
                else
                    /bin/mkdir {self.loaded}/$name
                fi
            done
            exit $result
        """)
        script.chmod(0o755)

    def calls(self):
        """Return the names of each call, without its options."""
        return [line.removeprefix("-q -a -- ").split() for line in self._calls.read_text().splitlines()]


@pytest.fixture
def node(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    return Node(tmp_path)


def test_one_modprobe_is_asked_for_what_is_not_there(node):
    (node.loaded / "ip_vs_rr").mkdir()

    node.modules.load("ip_vs_rr", "ip_vs_wrr", "xt_mark", "ip_vs_sh")
    node.modules.load("ip_vs_wrr")

    assert [["ip_vs_wrr", "ip_vs_sh"]] == node.calls()


def test_with_ip_vs_all_is_loaded_that_sets_and_rules_will_need(node):
    node.modules.load("ip_vs", "nf_conntrack")
    node.modules.load("ip_vs", *modules._COMPANIONS)

    (asked,) = node.calls()
    assert sorted({"ip_vs", *modules._COMPANIONS} - {"xt_mark"}) == sorted(asked)


def test_what_is_only_loaded_along_may_be_missing(node):
    node.missing.write_text("ipt_REJECT\n")

    node.modules.load("ip_vs")

    assert 1 == len(node.calls())


def test_what_is_needed_may_not_be_missing(node):
    node.missing.write_text("ipt_REJECT\nip_vs_nope\n")

    with pytest.raises(errors.MissingModule, match="modprobe ip_vs_nope"):
        node.modules.load("ip_vs", "ip_vs_nope")


def test_what_can_be_loaded_is_what_the_kernels_list_says_now(node):
    listed = node.release / "modules.dep"
    assert node.modules.may_have("ip_vs_mh")  # for nobody says otherwise
    listed.write_text("kernel/net/netfilter/ipvs/ip_vs_wrr.ko.xz: kernel/net/netfilter/ipvs/ip_vs.ko.xz\n")
    assert [True, False] == [node.modules.may_have(name) for name in ("ip_vs_wrr", "ip_vs_mh")]
    listed.write_text("kernel/net/netfilter/ipvs/ip_vs_mh.ko:\n")
    os.utime(listed, (1, 1))

    assert [False, True] == [node.modules.may_have(name) for name in ("ip_vs_wrr", "ip_vs_mh")]


def test_trying_to_load_says_nothing_of_what_is_missing(node, monkeypatch):
    node.missing.write_text("ip_tables\n")
    node.modules.try_to_load("ip_tables", "iptable_nat")
    monkeypatch.setenv("PATH", "")
    node.modules.try_to_load("ip_tables", "iptable_nat")

    assert [["ip_tables", "iptable_nat"]] == node.calls()
