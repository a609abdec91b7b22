"""Which iptables of a node are used, tried with scripts in their place."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from ipvs_agent import errors
from ipvs_agent.addresses import Family
from ipvs_agent.kernel import iptables
from ipvs_agent.kernel.iptables import NodeIptables
from ipvs_agent.kernel.modules import NodeModules

BOTH = frozenset(Family)
RULE = "-A INPUT -j DROP\n"
KUBELET = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n"
HINT = "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n"
OURS = "*filter\n:IPVS-AGENT-INPUT - [0:0]\nCOMMIT\n"
LOCKED = "echo 'Another app is currently holding the xtables lock.' >&2; exit 4\n"
NAMES = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}


class Node:
    """A folder of iptables tools."""

    def __init__(self, folder):
        self.folder = folder

    def install(self, flavour, saved="", *, families=BOTH, works=BOTH, version="1.8.9"):
        """Install tools of a flavour that print some rules and, for some families, work."""
        for family in families:
            self.script(f"{NAMES[family]}{flavour}-save", f"cat <<'END'\n# {flavour}\n{saved}END\n")
            refuse = "" if family in works else "echo 'cannot initialize table' >&2; exit 3\n"
            self.script(
                f"{NAMES[family]}{flavour}-restore",
                f'[ "$1" = --version ] && {{ echo "iptables-restore v{version} (x)"; exit; }}\n'
                f'echo "$0 $*" >>{self.folder}/calls\ncat >>{self.folder}/input\n{refuse}',
            )

    def script(self, name, text):
        path = self.folder / name
        path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{text}")
        path.chmod(0o755)

    def modules(self, *names):
        """Return the modules of a kernel that has just these."""
        for name in names:
            (self.folder / "module" / name).mkdir(parents=True)
        return NodeModules(self.folder / "module", self.folder)

    def loadable(self, *names):
        """Have the kernel's list name just these modules."""
        (self.folder / os.uname().release).mkdir()
        lines = "".join(f"kernel/net/{name}.ko:\n" for name in names)
        (self.folder / os.uname().release / "modules.dep").write_text(lines)

    def used(self, *modules):
        """Return the flavour whose rules are saved, with a kernel that has some modules."""
        return NodeIptables(self.modules(*modules)).save(Family.IPV4).splitlines()[0].removeprefix("# ")

    def calls(self):
        return [Path(line).name for line in (self.folder / "calls").read_text().splitlines()]


@pytest.fixture
def node(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(iptables, "_has_ipv6", lambda: True)
    monkeypatch.setattr(iptables, "_has_legacy_tables", lambda family: True)
    return Node(tmp_path)


@pytest.mark.parametrize(
    ("expected", "tools"),
    [
        pytest.param("-nft", {"-nft": {}, "-legacy": {}}, id="nft where nothing else decides"),
        pytest.param(
            "-legacy",
            {"-nft": {"saved": RULE}, "-legacy": {"saved": RULE + RULE}},
            id="the one with more rules",
        ),
        pytest.param(
            "-nft", {"-nft": {"saved": RULE}, "-legacy": {"saved": RULE}}, id="nft where both have as many"
        ),
        pytest.param(
            "-legacy", {"-nft": {"saved": RULE + RULE}, "-legacy": {"saved": KUBELET}}, id="the kubelet's"
        ),
        pytest.param(
            "-legacy", {"-nft": {"saved": RULE + RULE}, "-legacy": {"saved": HINT}}, id="the kubelet's hint"
        ),
        pytest.param(
            "-legacy", {"-nft": {"saved": KUBELET + RULE}, "-legacy": {"saved": OURS}}, id="ours from before"
        ),
        pytest.param("-legacy", {"-nft": {"works": frozenset()}, "-legacy": {}}, id="the one that works"),
        pytest.param(
            "-legacy",
            {"-nft": {"saved": KUBELET, "works": frozenset()}, "-legacy": {}},
            id="the one that works, though the kubelet used the other",
        ),
        pytest.param("-legacy", {"-legacy": {}}, id="the only one"),
        pytest.param("", {"": {}}, id="the only one, unnamed"),
        pytest.param("-legacy", {"": {"saved": RULE}, "-legacy": {}}, id="named before unnamed"),
    ],
)
def test_the_flavour_in_use(node, expected, tools):
    for flavour, behaviour in tools.items():
        node.install(flavour, **behaviour)

    assert expected == node.used()


@pytest.mark.parametrize(
    ("expected", "refusals", "behaviour"),
    [
        pytest.param(BOTH, {}, {}, id="both"),
        pytest.param(
            {Family.IPV4},
            {Family.IPV6: "ip6tables-nft-save is not in PATH: install the package iptables"},
            {"families": {Family.IPV4}},
            id="ip6tables is not there",
        ),
        pytest.param(
            {Family.IPV4},
            {Family.IPV6: "ip6tables-nft-restore: cannot initialize table"},
            {"works": {Family.IPV4}},
            id="ip6tables does not work",
        ),
        pytest.param(
            {Family.IPV6},
            {Family.IPV4: "iptables-nft-restore: cannot initialize table"},
            {"works": {Family.IPV6}},
            id="iptables does not work",
        ),
    ],
)
def test_families_whose_tools_work(node, expected, refusals, behaviour):
    node.install("-nft", **behaviour)
    tables = NodeIptables()

    assert expected == tables.families()
    assert refusals == tables.refusals()


@pytest.mark.parametrize("tool", ["iptables-nft-save", "iptables-nft-restore", "ip6tables-nft-restore"])
@pytest.mark.parametrize(
    ("script", "limit", "said"),
    [
        pytest.param(LOCKED, 60, "holding the xtables lock", id="another program has the lock"),
        pytest.param("exec sleep 600\n", 0.1, "did not end within", id="it hangs"),
    ],
)
def test_a_tool_that_cannot_answer_now_is_not_taken_for_one_that_does_not_work(
    node, monkeypatch, tool, script, limit, said
):
    """Neither its family nor its flavour is given up for the life of the process."""
    node.install("-nft")
    node.install("-legacy")
    node.script(tool, script)
    tables = NodeIptables()
    run = subprocess.run

    def run_for_so_long(command, **options):
        # The others may take their time, so that a busy machine does not matter.
        return run(command, **(options | {"timeout": limit if command[0] == tool else 60}))

    with monkeypatch.context() as impatient:
        impatient.setattr(subprocess, "run", run_for_so_long)
        with pytest.raises(errors.CommandFailed, match=said):
            tables.families()

    node.install("-nft")

    assert BOTH == tables.families()
    assert "-nft" == node.used()


def test_rules_of_all_flavours_are_read_without_writing(node):
    node.install("-nft", "nft\n", families={Family.IPV4})
    node.install("-legacy", "legacy\n", works=frozenset())

    assert [
        ("-nft", Family.IPV4, "# -nft\nnft\n"),
        ("-legacy", Family.IPV4, "# -legacy\nlegacy\n"),
        ("-legacy", Family.IPV6, "# -legacy\nlegacy\n"),
    ] == [(rules.flavour, rules.family, rules.saved) for rules in NodeIptables().all_rules()]
    assert not (node.folder / "calls").exists()


def test_rules_of_a_node_whose_tools_have_no_flavour(node):
    node.install("", "rules\n")

    assert ["", ""] == [rules.flavour for rules in NodeIptables().all_rules()]


def test_rules_are_restored_in_the_flavour_that_is_asked_for(node):
    node.install("-nft")
    node.install("-legacy")

    NodeIptables().restore(Family.IPV4, "*nat\nCOMMIT\n", "-legacy")

    assert ["iptables-legacy-restore --noflush -w 30"] == node.calls()


def test_without_ipv6_in_the_kernel_ip6tables_is_not_tried(node, monkeypatch):
    monkeypatch.setattr(iptables, "_has_ipv6", lambda: False)
    node.install("-nft")

    tables = NodeIptables()
    assert {Family.IPV4} == tables.families()
    assert "this node has no IPv6" in tables.refusals()[Family.IPV6]
    assert [f"iptables-nft-restore --noflush -w {iptables._LOCK_SECONDS}"] == node.calls()


LEGACY6 = ("ip6_tables", "ip6table_filter", "ip6table_nat", "ip6table_mangle")


@pytest.mark.parametrize(
    ("expected", "modules", "behaviour"),
    [
        pytest.param(["iptables"], LEGACY6, {}, id="the kernel has what it needs"),
        pytest.param(["iptables", "ip6tables"], LEGACY6[1:], {}, id="the kernel lacks something"),
        pytest.param(["iptables"], LEGACY6, {"works": {Family.IPV6}}, id="the other does not work"),
    ],
)
def test_legacy_tools_are_tried_only_where_the_modules_do_not_tell(node, expected, modules, behaviour):
    node.install("-legacy", **behaviour)

    assert Family.IPV6 in NodeIptables(node.modules(*modules)).families()
    assert expected == [call.partition("-")[0] for call in node.calls()]


def test_legacy_ip6tables_that_is_not_there_is_not_taken_to_work(node, monkeypatch):
    monkeypatch.setattr(iptables, "_has_legacy_tables", lambda family: False)
    node.install("-legacy", families={Family.IPV4})
    tables = NodeIptables(node.modules(*LEGACY6))

    assert {Family.IPV4} == tables.families()
    assert "ip6tables-legacy-restore is not in PATH" in tables.refusals()[Family.IPV6]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.EMFILE, errno.ENOMEM])
def test_a_tool_that_cannot_be_started_now(node, monkeypatch, number):
    """It neither ends the agent nor counts as one that does not work."""
    node.install("-nft")
    tables = NodeIptables()

    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(subprocess, "Popen", refuse)
        with pytest.raises(errors.CommandFailed, match=f"cannot be started: {os.strerror(number)}") as raised:
            tables.families()

    assert number == raised.value.number
    assert BOTH == tables.families()


def test_it_is_found_out_once(node):
    node.install("-nft")
    tables = NodeIptables()

    tables.families()
    before = len(node.calls())
    tables.families()
    tables.save(Family.IPV6)

    assert before == len(node.calls())


def test_a_failure_to_find_out_is_not_remembered(node):
    node.install("-nft", works=frozenset())
    tables = NodeIptables()
    with pytest.raises(errors.MissingModule, match="cannot initialize table"):
        tables.families()

    node.install("-nft")

    assert BOTH == tables.families()


def test_a_node_without_iptables(node):
    with pytest.raises(errors.MissingModule, match="iptables-save is not in PATH"):
        NodeIptables().families()


def test_a_tool_that_is_not_there_for_a_family(node):
    node.install("-nft", families={Family.IPV4})

    with pytest.raises(errors.CommandFailed, match="ip6tables-nft-save is not in PATH: install"):
        NodeIptables().save(Family.IPV6)


def test_input_is_restored_without_flushing_and_waits_for_the_lock(node):
    node.install("-legacy")

    NodeIptables().restore(Family.IPV6, "*nat\nCOMMIT\n")

    assert "ip6tables-legacy-restore --noflush -w 30" == node.calls()[-1]
    assert (node.folder / "input").read_text().endswith("\n*nat\nCOMMIT\n")


@pytest.mark.parametrize(
    ("said", "quoted"),
    [
        pytest.param("iptables-restore: line 2 failed", ": '-A X'", id="legacy, refused by the kernel"),
        pytest.param("Error occurred at line: 3", ": 'COMMIT'", id="refused by the tool"),
        pytest.param("line 2: CHAIN_DEL failed", ": '-A X'", id="nft, refused by the kernel"),
        pytest.param("line 9 failed", "", id="a line that is not there"),
        pytest.param("cannot take the lock", "", id="no line"),
    ],
)
def test_an_error_carries_what_was_said_and_the_line(node, said, quoted):
    node.install("-nft")
    tables = NodeIptables()
    tables.families()
    node.script("iptables-nft-restore", f"cat >/dev/null; echo '{said}' >&2; exit 1\n")

    with pytest.raises(errors.CommandFailed) as raised:
        tables.restore(Family.IPV4, "*nat\n-A X\nCOMMIT\n")

    assert f"iptables-nft-restore: {said}{quoted}" == str(raised.value)


def test_a_tool_that_hangs_is_killed_and_reported(node, monkeypatch):
    node.install("-nft")
    tables = NodeIptables()
    tables.families()
    node.script("iptables-nft-save", "exec sleep 600\n")
    monkeypatch.setattr(iptables, "_TIMEOUT_SECONDS", 0.1)

    with pytest.raises(errors.CommandFailed, match="did not end within"):
        tables.save(Family.IPV4)


def test_messages_of_tools_are_in_english_whatever_the_locale(node, monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    node.install("-nft")
    tables = NodeIptables()
    tables.families()
    node.script("iptables-nft-save", "echo $LC_ALL\n")

    assert "C\n" == tables.save(Family.IPV4)


@pytest.mark.parametrize(
    ("expected", "version"), [(False, "1.6.1"), (True, "1.6.2"), (True, "1.10.0"), (False, "x")]
)
def test_which_version_knows_random_fully(node, expected, version):
    node.install("-nft", version=version)
    tables = NodeIptables()
    tables.families()
    node.script("iptables-nft-restore", f"[ $1 = --version ] && exec echo v{version}; exit 2\n")

    with pytest.raises(errors.CommandFailed):
        tables.restore(Family.IPV4, "*nat\nCOMMIT\n")
    assert tables.supports_random_fully()
    with pytest.raises(errors.CommandFailed):
        tables.restore(Family.IPV4, "*nat\n-A POSTROUTING -j MASQUERADE --random-fully\nCOMMIT\n")
    assert expected == tables.supports_random_fully()


def test_why_rules_are_refused_is_told_where_the_version_is_not(node):
    node.install("-nft")
    tables = NodeIptables()
    tables.families()
    node.script("iptables-nft-restore", "[ $1 = --version ] && exit 2; echo 'line 2 failed' >&2; exit 2\n")

    with pytest.raises(errors.CommandFailed, match="line 2 failed"):
        tables.restore(Family.IPV4, "*nat\n-A POSTROUTING -j MASQUERADE --random-fully\nCOMMIT\n")
    assert not tables.supports_random_fully()


def test_nft_is_not_asked_where_the_kernel_has_no_nf_tables(node):
    node.install("-nft", saved=RULE)
    node.install("-legacy")
    node.loadable("ip_tables")

    assert node.used("ip_tables") == "-legacy"


@pytest.mark.parametrize(
    ("expected", "loaded", "works"),
    [
        pytest.param("-legacy", ["ip_tables"], BOTH, id="legacy is loaded, nft is not"),
        pytest.param("-nft", ["ip_tables", "nf_tables"], BOTH, id="both are"),
        pytest.param("-nft", [], BOTH, id="neither is"),
        pytest.param("-nft", ["ip_tables"], frozenset(), id="legacy does not work"),
    ],
)
def test_nft_that_is_not_loaded_gives_way_to_legacy_that_is(node, expected, loaded, works):
    node.install("-nft")
    node.install("-legacy", works=works)
    node.loadable("ip_tables", "nf_tables")
    for name in NAMES.values():
        node.script(f"{name}-nft-save", f'echo "$0" >>{node.folder}/calls; echo "# -nft"\n')

    assert expected == node.used(*loaded)
    assert any("-nft-" in call for call in node.calls()) == (expected == "-nft")


def test_legacy_rules_are_not_asked_for_where_there_can_be_none(node, monkeypatch):
    monkeypatch.setattr(iptables, "_has_legacy_tables", lambda family: False)
    node.install("-nft")
    node.install("-legacy", saved=RULE)

    assert "-nft" == node.used()


class TestAskingAgain:
    """A family whose tools fail is asked at each audit; one whose tools work costs nothing more."""

    @pytest.mark.parametrize("flavour", ["-nft", "-legacy", ""])
    @pytest.mark.parametrize("tool", ["save", "restore"])
    def test_a_family_whose_tools_work_again(self, node, flavour, tool):
        node.install(flavour)
        node.script(f"ip6tables{flavour}-{tool}", "echo 'out of memory' >&2; exit 1\n")
        tables = NodeIptables(node.modules())
        assert {Family.IPV4} == tables.families()
        assert {Family.IPV4} == tables.families()
        assert {Family.IPV6: f"ip6tables{flavour}-{tool}: out of memory"} == tables.refusals()

        node.install(flavour)

        assert BOTH == tables.families()
        assert {} == tables.refusals()

    def test_the_flavour_stays_and_so_do_the_families_that_work(self, node):
        node.install("-nft", works={Family.IPV4})
        tables = NodeIptables()
        tables.families()
        node.install("-legacy", OURS)
        before = len(node.calls())

        assert {Family.IPV4} == tables.families()

        assert ["ip6tables-nft-restore"] == [call.split()[0] for call in node.calls()[before:]]

    def test_what_another_program_keeps_locked_is_asked_another_time(self, node):
        node.install("-nft", works={Family.IPV4})
        tables = NodeIptables()
        tables.families()
        node.script("ip6tables-nft-restore", LOCKED)

        assert {Family.IPV4} == tables.families()
        assert "holding the xtables lock" in tables.refusals()[Family.IPV6]

    @pytest.mark.parametrize("lacks", ["IPv6", "ip6tables"])
    def test_no_process_is_started_for_what_the_node_lacks(self, node, monkeypatch, lacks):
        node.install("-nft", families=BOTH if lacks == "IPv6" else {Family.IPV4})
        monkeypatch.setattr(iptables, "_has_ipv6", lambda: lacks != "IPv6")
        tables = NodeIptables()
        tables.families()
        monkeypatch.setattr(subprocess, "run", None)

        assert {Family.IPV4} == tables.families()
        assert {Family.IPV6} == tables.refusals().keys()

    @pytest.mark.parametrize(("expected", "has_ipv6"), [({Family.IPV6}, False), (set(), True)])
    def test_a_family_that_is_switched_off_does_not_just_fail(self, node, monkeypatch, expected, has_ipv6):
        node.install("-nft", works={Family.IPV4})
        monkeypatch.setattr(iptables, "_has_ipv6", lambda: has_ipv6)
        tables = NodeIptables()

        assert {Family.IPV4} == tables.families()
        assert expected == tables.switched_off()
