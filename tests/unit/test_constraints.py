"""constraints.txt has a version for whatever setup.cfg has installed for tests and linters."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def names(text):
    return {re.split("[<>=]", line)[0] for line in text.split("\n") if line and not line.startswith("#")}


def test_all_that_is_installed_for_a_check_has_its_version():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    asked = config["options"]["install_requires"] + extras["test"] + extras["lint"]
    constraints = (ROOT / "constraints.txt").read_text()

    assert names(asked) <= names(constraints)
    assert all("==" in line for line in constraints.splitlines() if not line.startswith("#"))
    assert "--constraint constraints.txt" in (ROOT / "tools" / "install").read_text()
