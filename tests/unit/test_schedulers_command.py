"""ipvs-agent schedulers, on kernels that are folders."""

from __future__ import annotations

import json
import os

import pytest

from ipvs_agent import cli
from ipvs_agent.cli import schedulers as command
from ipvs_agent.schedulers import SCHEDULERS, listing
from ipvs_agent.schedulers.listing import Presence

WITHOUT_UNKNOWN = """\
NAME   KERNEL   WEIGHT    FLAGS         WHAT IT DOES                   A POOR CHOICE WHEN
rr     loaded   ignored                 Round robin: each in turn.     Real servers differ in size,
                                                                       or connections in length.
wrr    module   share                   Weighted round robin: turns    Connections differ in length:
                                        by weight.                     turns say little of load.
lc     module   ignored                 Least connection: the fewest   Nodes are many: each counts
                                        connections.                   only its own connections.
wlc    module   share                   Weighted least connection:     Start-up is slow: a new one
                                        the fewest for its weight.     gets every new connection.
sed    module   share                   Shortest expected delay: the   UDP: one gets all. Little
                                        fewest active by weight.       load: small ones stay idle.
nq     module   share                   Never queue: an idle one if    UDP: one gets all. Idle ones
                                        there is one, else as sed.     go first, however slow.
sh     module   share     sh-fallback*  Source hashing: by client      One address for many clients.
                          sh-port       address.                       Much change: mh moves fewer.
dh     module   ignored                 Destination hashing: by the    Any Service: one real server
                                        address that was dialled.      gets all. Made for caches.
lblc   module   capacity                Locality: by dialled address,  Any Service: one real server
                                        until overloaded.              gets most. Made for caches.
lblcr  module   capacity                As lblc, with a set that       Any Service: a few get most.
                                        grows and shrinks with load.   Made for caches.
mh     module   share     mh-fallback*  Maglev hashing: by client      One address for many clients.
                          mh-port       address; a change moves few.   Little memory: 32 KiB each.
fo     module   priority                Failover: the highest weight   Load is to be spread: of
                                        gets everything.               equal weights, one gets all.
ovf    module   capacity                Overflow: the highest weight   Weights too low: clients are
                                        until full, then the next.     refused. UDP: never full.
twos   no       share                   Two choices: of two at         Many kernels lack it.
                                        random, the less loaded.

KERNEL  loaded: or built in; module: will be loaded when it is first used; no: not in this kernel
WEIGHT  0 takes a real server out. Above that: ignored; share: in proportion to the others;
        priority: the highest first; capacity: active connections, above which it is full
FLAGS   *: set unless told otherwise
"""
KINDS = "kernel/net/netfilter/ipvs/"


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """The folder of the modules of a kernel that has nothing loaded; not made yet."""
    monkeypatch.setattr(command, "LOADED", tmp_path / "loaded")
    monkeypatch.setattr(command, "INSTALLED", tmp_path / "installed")
    return tmp_path / "installed" / os.uname().release


def install(folder, modules=(), built_in=()):
    folder.mkdir(parents=True)
    (folder / "modules.dep").write_text("".join(f"{KINDS}{each}: {KINDS}ip_vs.ko\n" for each in modules))
    (folder / "modules.builtin").write_text("".join(f"{KINDS}{each}.ko\n" for each in built_in))


def out_of(capsys, *words):
    assert 0 == cli.main(["schedulers", *words])
    return capsys.readouterr().out


def kernel_has(capsys):
    return {row["name"]: row["kernel"] for row in json.loads(out_of(capsys, "-o", "json"))}


def test_the_table():
    presences = dict.fromkeys(SCHEDULERS, Presence.MODULE) | {"rr": Presence.LOADED, "twos": Presence.NO}

    assert WITHOUT_UNKNOWN == listing.render(presences)


def test_no_line_is_longer_than_a_hundred_columns_and_none_ends_in_blanks(installed, capsys):
    lines = out_of(capsys).splitlines()

    assert 100 == max(map(len, lines))
    assert [line.rstrip() for line in lines] == lines


def test_json_says_all_of_a_scheduler(installed, capsys):
    row = json.loads(out_of(capsys, "--output", "json"))[list(SCHEDULERS).index("mh")]

    assert row == {
        "name": "mh",
        "kernel": "unknown",
        "module": "ip_vs_mh",
        "since": "4.18",
        "summary": "Maglev hashing: by client address; a change moves few.",
        "weight": "share",
        "weightMeaning": "Share of the table's places; kept at its last value above 0 while it is 0.",
        "flags": ["mh-fallback", "mh-port"],
        "defaultFlags": ["mh-fallback"],
        "order": "canonical",
        "mostRealServers": 4093,
        "poorChoice": "One address for many clients. Little memory: 32 KiB each.",
    }


def test_json_says_that_a_scheduler_serves_any_number(installed, capsys):
    assert None is json.loads(out_of(capsys, "-o", "json"))[0]["mostRealServers"]


def test_what_a_kernel_has(installed, capsys):
    install(
        installed,
        modules=["ip_vs_rr.ko", "ip_vs_sh.ko.xz", "ip_vs_mh.ko.zst", "ip_vs_lblcr.ko", "ip_vs_nqx.ko"],
        built_in=["ip_vs_wrr"],
    )
    (command.LOADED / "ip_vs_rr").mkdir(parents=True)

    expected = dict.fromkeys(SCHEDULERS, "no")
    expected |= {"rr": "loaded", "wrr": "loaded", "sh": "module", "mh": "module", "lblcr": "module"}
    assert expected == kernel_has(capsys)


def test_a_module_that_others_need_but_that_is_not_there(installed, capsys):
    install(installed)
    (installed / "modules.dep").write_text(f"{KINDS}ip_vs_rr.ko: {KINDS}ip_vs_wlc.ko {KINDS}ip_vs.ko\n")

    assert {"rr": "module", "wlc": "no"}.items() <= kernel_has(capsys).items()


def test_without_a_folder_of_modules_what_is_not_loaded_is_unknown(installed, capsys):
    (command.LOADED / "ip_vs_sh").mkdir(parents=True)

    assert dict.fromkeys(SCHEDULERS, "unknown") | {"sh": "loaded"} == kernel_has(capsys)
    assert "unknown: not loaded" in out_of(capsys)


def test_without_a_list_in_the_folder_what_is_not_loaded_is_unknown(installed, capsys):
    installed.mkdir(parents=True)

    assert dict.fromkeys(SCHEDULERS, "unknown") == kernel_has(capsys)


def test_wrong_usage(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["schedulers", "-o", "yaml"])

    assert 2 == caught.value.code
