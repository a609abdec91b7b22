"""What the agent knows of a scheduler."""

from __future__ import annotations

import msgspec

from ipvs_agent.model import ServiceFlags

FLAG_BITS = (ServiceFlags.SCHEDULER_1, ServiceFlags.SCHEDULER_2, ServiceFlags.SCHEDULER_3)
"""The bits of a virtual server's flags that mean what its scheduler makes of them."""

PLAIN_FLAGS = ("flag-1", "flag-2", "flag-3")
"""Their names where a scheduler gives them none of its own."""


class Scheduler(msgspec.Struct, frozen=True):
    """One of the kernel's ways to choose a real server for a new connection."""

    name: str
    summary: str
    """Which real server gets a new connection."""
    weight: str
    """What a weight means; 0 takes a real server out for new connections in every scheduler."""
    poor_choice: str
    """When it is a poor choice."""
    flags: tuple[str, ...] = ()
    """The names that it gives its flags, in the order of FLAG_BITS."""
    default_flags: int = 0
    """The flags that the agent sets where it is not told otherwise."""

    @property
    def module(self) -> str:
        """Return the kernel module that offers it."""
        return f"ip_vs_{self.name}"
