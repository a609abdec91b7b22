"""The table of tests/conformance/README.md: every test of kube-proxy is covered by tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conformance.scenarios import SCENARIOS

ROOT = Path(__file__).resolve().parent.parent.parent
ROW = re.compile(r"\| ([^|]+) \| ([^|]+) \|")
NAMES = {case.name for case in SCENARIOS}


def rows():
    text = (ROOT / "tests/conformance/README.md").read_text()
    table = text.partition("| test of kube-proxy |")[2]
    return [match.groups() for match in ROW.finditer(table) if not match[1].startswith("-")]


@pytest.mark.parametrize("covered", [pytest.param(covered, id=test) for test, covered in rows()])
def test_what_covers_it_exists(covered):
    for name in re.sub(r" \([^)]*\)", "", covered).split(", "):
        if name.startswith("`"):
            path, _, function = name.strip("`").partition("::")
            assert re.search(rf"def {function}\(", (ROOT / path).read_text()), name
        else:
            assert name in NAMES


def test_the_table_is_read():
    assert len(rows()) > 45


def test_every_scenario_has_a_name_of_its_own():
    assert len(NAMES) == len(SCENARIOS)
