"""The layers: which package may import what."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "ipvs_agent"

PURE = (
    "addresses",
    "durations",
    "errors",
    "model",
    "observed",
    "operations",
    "schedulers",
    "desired",
    "explain",
    "status",
)
PURE_MODULES = (
    "check/facts",
    "check/findings",
    "check/text",
    "reconcile/claims",
    "reconcile/achieved",
    "reconcile/diff",
    "reconcile/drain",
    "reconcile/drift",
    "reconcile/put_off",
    "reconcile/settings",
    "reconcile/slow_start",
    "reconcile/spacing",
    "reconcile/timers",
)
IMPURE = {
    *("ctypes", "datetime", "io", "logging", "os", "pathlib", "random"),
    *("select", "selectors", "subprocess", "threading", "time", "urllib"),
}
# Who may import what comes from outside, and is an edge.
EDGES = {
    "kubernetes": ("sources/api_client",),
    "urllib3": ("sources/api_client",),
    "subprocess": ("kernel/iptables", "kernel/modules"),
    "prometheus_client": ("serve/metrics",),
    "yaml": ("yaml_documents", "sources/api_client"),
    "logging": ("logs", "cli/", "reconcile/report"),
}
# Which of our packages a package may import, beside itself and the pure modules at the top.
TOP = {
    *("addresses", "durations", "errors", "model", "observed"),
    *("operations", "documents", "yaml_documents"),
}
ALLOWED = {
    "check": {"config", "desired", "kernel", "schedulers"},
    "schedulers": set(),
    "desired": {"schedulers"},
    "explain": {"desired", "schedulers"},
    "kernel": set(),
    "config": {"schedulers", "sources"},
    "sources": set(),
    "serve": {"status"},
    "status": {"schedulers"},
    "reconcile": {"desired", "kernel", "logs", "schedulers", "sources"},
    "testing": {"desired", "kernel", "schedulers", "sources"},
    "cli": {
        *("check", "config", "desired", "explain", "kernel", "logs"),
        *("reconcile", "schedulers", "serve", "sources", "status"),
    },
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).with_suffix("").as_posix(), path


def imports(path):
    """Names of imported modules, with those that a `from` import may mean."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_pure_modules_do_no_input_or_output():
    found = [
        f"{name} imports {imported}"
        for name, path in modules()
        if name.split("/")[0] in PURE or name in PURE_MODULES
        for imported in imports(path)
        if imported.split(".")[0] in IMPURE or imported.startswith("ipvs_agent.kernel.netlink")
    ]

    assert [] == found


@pytest.mark.parametrize("library", EDGES)
def test_edges_are_kept(library):
    users = {name for name, path in modules() if library in {each.split(".")[0] for each in imports(path)}}
    users = {name for name in users if not name.startswith("testing/")}

    assert users
    assert [] == [name for name in sorted(users) if not name.startswith(EDGES[library])]


def test_packages_import_downwards_only():
    found = []
    for name, path in modules():
        package = name.split("/")[0]
        if package not in ALLOWED:
            continue
        for imported in imports(path):
            parts = imported.split(".")
            if parts[0] == "ipvs_agent" and len(parts) > 1:
                is_allowed = parts[1] in TOP | ALLOWED[package] | {package, "__version__"}
                if not is_allowed:
                    found.append(f"{name} imports {imported}")

    assert [] == found


def test_every_package_has_its_place_here():
    packages = {name.split("/")[0] for name, _ in modules() if "/" in name}

    assert set(ALLOWED) == packages
