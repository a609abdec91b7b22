"""What every implementation of kernel.api.Sysctls does."""

from __future__ import annotations

import pytest

from ipvs_agent import errors

NAME = "net/ipv4/conf/all/arp_announce"


class SysctlsContract:
    """Needs a fixture `sysctls`, where NAME has the kernel's default."""

    def test_a_setting_is_read_without_the_end_of_its_line(self, sysctls):
        assert "0" == sysctls.read(NAME)

    def test_what_is_written_is_read(self, sysctls):
        sysctls.write(NAME, "2")

        assert "2" == sysctls.read(NAME)

    def test_a_setting_that_the_kernel_does_not_have_is_not_found(self, sysctls):
        with pytest.raises(errors.NotFound):
            sysctls.read("net/ipv4/no_such_setting")
        with pytest.raises(errors.NotFound):
            sysctls.write("net/ipv4/no_such_setting", "1")

    def test_a_value_that_the_kernel_does_not_take(self, sysctls):
        with pytest.raises(errors.InvalidRequest):
            sysctls.write(NAME, "many")

        assert "0" == sysctls.read(NAME)

    @pytest.mark.parametrize(
        "name",
        [
            pytest.param("../../etc/passwd", id="parent"),
            pytest.param("net/../../../etc/passwd", id="parent inside"),
            pytest.param("/etc/passwd", id="absolute"),
            pytest.param("ip_forward", id="one part"),
            pytest.param("", id="empty"),
        ],
    )
    def test_a_name_cannot_leave_the_tree(self, sysctls, name):
        with pytest.raises(errors.InvalidRequest):
            sysctls.read(name)
        with pytest.raises(errors.InvalidRequest):
            sysctls.write(name, "1")
