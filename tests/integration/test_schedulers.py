"""What `ipvs-agent schedulers` says of this kernel, beside what the kernel does."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ipvs_agent.errors import UnknownScheduler
from ipvs_agent.kernel.ipvs import NetlinkIpvs
from ipvs_agent.model import VirtualServer
from ipvs_agent.operations import AddVirtualServer, DeleteVirtualServer
from ipvs_agent.schedulers import SCHEDULERS
from tests.contract.ipvs_tables import KEY, KEY6


def told():
    command = [sys.executable, "-m", "ipvs_agent", "schedulers", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {row["name"]: row["kernel"] for row in json.loads(done.stdout)}


def loaded():
    return {each.name for each in Path("/sys/module").glob("ip_vs_*")}


@pytest.fixture
def ipvs(namespace):
    with contextlib.closing(NetlinkIpvs()) as ipvs:
        yield ipvs


def test_it_loads_nothing():
    before = loaded()

    told()

    assert before == loaded()


def test_the_kernel_takes_what_it_is_said_to_have_and_refuses_the_rest(ipvs):
    before = told()
    accepted = {}
    for name, scheduler in SCHEDULERS.items():
        for key in (KEY, KEY6):
            (failure,) = ipvs.apply([AddVirtualServer(VirtualServer(key, name, scheduler.default_flags))])
            assert failure is None or isinstance(failure, UnknownScheduler)
            accepted.setdefault(name, set()).add(failure is None)
            if failure is None:
                assert [None] == ipvs.apply([DeleteVirtualServer(key)])

    promised = {name: {has != "no"} for name, has in before.items() if has != "unknown"}
    assert promised == {name: accepted[name] for name in promised}
    now = told()
    assert {name for name, has in now.items() if has == "loaded"} == {
        name for name in accepted if accepted[name] == {True}
    }


def test_the_kernel_keeps_every_flag_of_every_scheduler(ipvs):
    """Also those that mean nothing to it, which is why annotations may ask for them."""
    present = [name for name, has in told().items() if has not in ("no", "unknown")]
    assert "rr" in present
    for name in present:
        for flags in (0x8, 0x10, 0x20, 0x38):
            wanted = VirtualServer(KEY, name, flags)
            assert [None] == ipvs.apply([AddVirtualServer(wanted)])
            assert wanted == ipvs.virtual_server(KEY).virtual_server
            assert [None] == ipvs.apply([DeleteVirtualServer(KEY)])
