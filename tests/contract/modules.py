"""What every implementation of kernel.api.Modules does."""

from __future__ import annotations

import pytest

from ipvs_agent import errors


class ModulesContract:
    """Needs a fixture `modules` of a kernel that has ip_vs_wrr but not ip_vs_nope."""

    def test_a_module_can_be_loaded_again(self, modules):
        modules.load("ip_vs_wrr")
        modules.load("ip_vs_wrr")

    def test_one_that_is_missing_is_named_among_others(self, modules):
        with pytest.raises(errors.MissingModule, match="`modprobe ip_vs_nope`"):
            modules.load("ip_vs_wrr", "ip_vs_nope", "ip_vs_rr")

    def test_the_error_for_a_missing_module_says_how_to_get_it(self, modules):
        with pytest.raises(errors.MissingModule, match="`modprobe ip_vs_nope`"):
            modules.load("ip_vs_nope")

    def test_what_could_be_loaded_is_there(self, modules):
        modules.try_to_load("ip_vs_wrr", "ip_vs_nope")

        assert modules.has("ip_vs_wrr")
        assert not modules.has("ip_vs_wrr", "ip_vs_nope")

    def test_what_is_there_may_be_had(self, modules):
        modules.load("ip_vs_wrr")

        assert modules.may_have("ip_vs_wrr")

    @pytest.mark.parametrize("name", ["", "../x", "--remove", "two words"])
    def test_what_is_not_a_name_is_refused(self, modules, name):
        with pytest.raises(errors.InvalidRequest):
            modules.load(name)
