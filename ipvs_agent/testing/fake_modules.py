"""Kernel modules, in memory."""

from __future__ import annotations

from ipvs_agent.errors import InvalidRequest, MissingModule


class FakeModules:
    """A kernel that has every module but the missing ones."""

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.loaded: set[str] = set()
        self.has_list = True
        """Whether it says what can be loaded."""

    def load(self, *names: str) -> None:
        """Make sure that modules are there; MissingModule where one cannot be loaded."""
        for name in names:
            if not name.replace("_", "").isalnum():
                raise InvalidRequest(f"{name!r} is not the name of a kernel module")
        self.try_to_load(*names)
        for name in names:
            if name in self.missing:
                raise MissingModule(
                    f"the kernel module {name} cannot be loaded: run `modprobe {name}` on the node"
                )

    def try_to_load(self, *names: str) -> None:
        """Load what the kernel has of some modules, without a word where it has not."""
        self.loaded |= set(names) - self.missing

    def has(self, *names: str) -> bool:
        """Tell whether all of some modules are loaded."""
        return set(names) <= self.loaded

    def may_have(self, name: str) -> bool:
        """Tell whether a module is loaded or can be, as far as the kernel's lists say."""
        return name in self.loaded or name not in self.missing or not self.has_list
