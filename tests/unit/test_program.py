"""The command line as a process: all that it said arrives, and its status, though it ends at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tools.lab.agent import ROOT

AGENT = [sys.executable, "-m", "ipvs_agent"]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["schedulers", "-o", "json"], 0, b'"name": "rr"'),
        (["explain", "shop/web", "--manifests", "/nowhere"], 1, b"/nowhere: No such file"),
        (["nonsense"], 2, b"invalid choice: 'nonsense'"),
        (["--version"], 0, b"ipvs-agent 0."),
    ],
)
def test_what_is_said_and_the_status_arrive(words, status, said):
    done = subprocess.run([*AGENT, *words], cwd=ROOT, capture_output=True, check=False)

    assert status == done.returncode
    assert said in done.stdout + done.stderr


def test_a_reader_that_has_seen_enough_is_no_failure():
    with subprocess.Popen([*AGENT, "schedulers"], cwd=ROOT, stdout=subprocess.PIPE) as agent:
        agent.stdout.close()

        assert 0 == agent.wait()
