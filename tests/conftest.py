"""What holds for every test."""

import os

import pytest

SKIPS_FAIL = bool(os.environ.get("CI"))
IS_SLOW = os.environ.get("IPVS_AGENT_VM") == "qemu"


def pytest_collection_modifyitems(config, items):
    """Give every test the time that it takes on this machine."""
    for item in items if IS_SLOW else []:
        mark = item.get_closest_marker("timeout")
        seconds = mark.args[0] if mark else float(config.getini("timeout"))
        item.add_marker(pytest.mark.timeout(seconds * 5), append=False)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    return _refuse_skip(report)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(collector):
    report = yield
    return _refuse_skip(report)


def _refuse_skip(report):
    """Turn a skip, or an expected failure without a reason, into a failure where CI runs."""
    is_explained = bool(getattr(report, "wasxfail", ""))
    if SKIPS_FAIL and report.skipped and not is_explained:
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: CI accepts no skipped test: {report.longrepr}"
    return report
