"""What cleanup removes, and in what it stops."""

from __future__ import annotations

import argparse
import errno

import pytest

from ipvs_agent import serve
from ipvs_agent.addresses import Family, parse_address
from ipvs_agent.cli import cleanup as command
from ipvs_agent.desired import sets, shim
from ipvs_agent.errors import Busy, MissingModule
from ipvs_agent.model import Protocol, VipForm, VirtualServer, address_key
from ipvs_agent.operations import AddMember, AddVip, AddVirtualServer
from ipvs_agent.reconcile import cleanup
from ipvs_agent.testing.fake_kernel import FakeKernel

VIP = parse_address("10.96.0.1")
KEY = address_key(Protocol.TCP, VIP, 80)
OTHERS = address_key(Protocol.TCP, VIP, 81)


@pytest.fixture
def kernel():
    """A kernel as the agent leaves it when it ends, with a virtual server of somebody else's."""
    kernel = FakeKernel()
    kernel.vips.ensure_link()
    for ip_set in sets.sets_of(Family.IPV4):
        kernel.ipsets.create(ip_set)
    kernel.iptables.restore(Family.IPV4, shim.restore_text(shim.tables(Family.IPV4, shim.Masquerade()), ""))
    kernel.ipsets.apply(
        [
            AddMember(sets.vip_member(Family.IPV4, VIP)),
            AddMember(sets.port_member(sets.Purpose.SERVICES, KEY)),
        ]
    )
    kernel.vips.apply([AddVip(VIP)])
    kernel.ipvs.apply([AddVirtualServer(VirtualServer(key, "rr")) for key in (KEY, OTHERS)])
    return kernel


def clean_up(kernel):
    return cleanup.carry_out(kernel, cleanup.plan(kernel))


def left(kernel):
    """Return what there is, in a few words."""
    return [
        *(f"virtual server {observed.virtual_server.key.port}" for observed in kernel.ipvs.virtual_servers()),
        *(f"vip {vip}" for vip in kernel.vips.addresses()),
        *(f"route {vip}" for vip in kernel.vips.routes()),
        *(["rules"] if "IPVS-AGENT" in kernel.iptables.save(Family.IPV4) else []),
        *(["sets"] if kernel.ipsets.sets() else []),
        *(["link"] if kernel.vips.kind else []),
    ]


def fail_once(monkeypatch, adapter):
    """Have an adapter refuse its next batch."""
    apply = adapter.apply

    def refuse(operations):
        monkeypatch.setattr(adapter, "apply", apply)
        return [Busy(f"{operation}: refused", errno.EBUSY) for operation in operations]

    monkeypatch.setattr(adapter, "apply", refuse)


def test_all_that_is_ours_goes_and_nothing_else(kernel):
    assert [] == clean_up(kernel)

    assert ["virtual server 81"] == left(kernel)
    assert [] == cleanup.plan(kernel).lines()


def test_routes_are_ours_wherever_they_lead(kernel):
    kernel.vips.apply([AddVip(VIP, VipForm.ROUTE), AddVip(parse_address("fd00:10:96::1"), VipForm.ROUTE)])

    assert "ip route del local 10.96.0.1/32 table local proto 81" in cleanup.plan(kernel).lines()
    assert [] == clean_up(kernel)
    assert ["virtual server 81"] == left(kernel)


def test_an_interface_with_routes_of_somebody_else_stays(kernel):
    kernel.vips.other_routes.add(parse_address("203.0.113.9"))

    assert [] == clean_up(kernel)
    assert ["virtual server 81", "link"] == left(kernel)


@pytest.mark.parametrize("adapter", ["vips", "ipvs"])
def test_what_could_not_be_removed_is_found_by_the_next_cleanup(kernel, monkeypatch, adapter):
    """The sets, which say what is ours, outlive it."""
    fail_once(monkeypatch, getattr(kernel, adapter))

    assert ["refused"] == [str(error).rpartition(": ")[2] for error in clean_up(kernel)]
    assert ["rules", "sets", "link"] == left(kernel)[-3:]

    assert [] == clean_up(kernel)
    assert ["virtual server 81"] == left(kernel)


def test_a_kernel_whose_ipvs_is_gone_is_cleaned_of_the_rest(kernel, monkeypatch):
    def refuse(*_):
        raise MissingModule("this kernel has no IPVS")

    with monkeypatch.context() as gone:
        for method in ("virtual_servers", "apply"):
            gone.setattr(kernel.ipvs, method, refuse)
        assert [] == clean_up(kernel)

    assert ["virtual server 80", "virtual server 81"] == sorted(left(kernel))


def test_a_plan_writes_nothing(kernel):
    before = len(kernel.iptables.restored)

    lines = cleanup.plan(kernel).lines()

    assert "iptables-nft -t nat -X IPVS-AGENT-PREROUTING" in lines
    assert before == len(kernel.iptables.restored)


def test_a_family_whose_tools_do_not_work_is_left_out(kernel):
    kernel.iptables.usable = frozenset({Family.IPV4})

    assert [] == clean_up(kernel)
    assert ["virtual server 81"] == left(kernel)


class TestCommand:
    @pytest.fixture
    def notes(self, tmp_path, monkeypatch):
        """The file of notes of an agent that has ended."""
        path = tmp_path / "ipvs-agent" / "notes.json"
        path.parent.mkdir()
        path.touch()
        monkeypatch.setattr(serve.notes, "PATH", path)
        return path

    @pytest.mark.parametrize("is_dry", [True, False])
    def test_the_notes_go_too(self, kernel, notes, monkeypatch, capsys, is_dry):
        monkeypatch.setattr(command, "NodeKernel", lambda: kernel)

        assert 0 == command.run(argparse.Namespace(dry_run=is_dry))
        assert [f"rm {notes}"] == capsys.readouterr().out.splitlines()[-1:]
        assert is_dry == notes.exists() == notes.parent.exists()

    def test_notes_that_cannot_be_removed_are_said(self, kernel, notes, monkeypatch, capsys):
        monkeypatch.setattr(command, "NodeKernel", lambda: kernel)
        monkeypatch.setattr(serve.notes, "remove", lambda path: path.mkdir())

        assert 1 == command.run(argparse.Namespace(dry_run=False))
        assert "File exists" in capsys.readouterr().err
