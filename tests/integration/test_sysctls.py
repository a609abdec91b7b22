"""Kernel settings of a network namespace, with /proc itself as witness."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipvs_agent import errors
from ipvs_agent.kernel.sysctls import ProcSysctls
from tests.contract.sysctls import NAME, SysctlsContract


class TestProcSysctls(SysctlsContract):
    @pytest.fixture
    def sysctls(self, namespace):
        return ProcSysctls()

    def test_what_is_written_is_in_proc(self, sysctls):
        sysctls.write(NAME, "2")

        assert "2\n" == Path("/proc/sys", NAME).read_text()

    def test_a_setting_that_has_its_value_is_not_written(self, sysctls):
        """So that a read-only /proc will do: this one cannot be written at all."""
        name = "kernel/osrelease"

        sysctls.write(name, sysctls.read(name))
        with pytest.raises(errors.PermissionDenied, match=name):
            sysctls.write(name, "6.1.0")

    def test_numbers_of_a_list_may_be_given_with_spaces(self, sysctls):
        sysctls.write("net/ipv4/ping_group_range", "0 1000")

        assert "0\t1000" == sysctls.read("net/ipv4/ping_group_range")
        sysctls.write("net/ipv4/ping_group_range", "0 1000")
