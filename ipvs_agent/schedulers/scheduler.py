"""What the agent knows of a scheduler."""

from __future__ import annotations

import enum

import msgspec

from ipvs_agent.model import ServiceFlags

FLAG_BITS = (ServiceFlags.SCHEDULER_1, ServiceFlags.SCHEDULER_2, ServiceFlags.SCHEDULER_3)
"""The bits of a virtual server's flags that mean what its scheduler makes of them."""

PLAIN_FLAGS = ("flag-1", "flag-2", "flag-3")
"""Their names where a scheduler gives them none of its own; every scheduler takes these names, too."""

RAMP_STEPS = 10
"""Of a slow start. A weight of 1 cannot grow, so all weights are this much larger where there is one."""


class Weight(enum.Enum):
    """What a weight above 0 means to a scheduler; 0 takes a real server out for new connections in all."""

    IGNORED = "ignored"
    SHARE = "share"
    """In proportion to the weights of the others."""
    PRIORITY = "priority"
    """The highest goes first."""
    CAPACITY = "capacity"
    """A number of active connections, above which another real server is looked for."""


class Order(enum.Enum):
    """In which order real servers are to stand in the kernel's list, which has the last added first."""

    SPREAD = "spread"
    """Another on every node: the list decides where turns start and who wins a draw."""
    RANKED = "ranked"
    """Another on every node: of those of the highest weight, the first in the list gets everything."""
    CANONICAL = "canonical"
    """The same on every node, through all changes: the list decides which client gets which real server."""


class Scheduler(msgspec.Struct, frozen=True):
    """One of the kernel's ways to choose a real server for a new connection."""

    name: str
    summary: str
    """Which real server gets a new connection."""
    weight: Weight
    weight_meaning: str
    """What a weight means, in words."""
    poor_choice: str
    """When it is a poor choice."""
    order: Order = Order.SPREAD
    flags: tuple[str, ...] = ()
    """The names that it gives its flags, in the order of FLAG_BITS."""
    safe_flags: int = 0
    """Set unless told otherwise: without them, clients of a real server of weight 0 are refused."""
    kube_proxy_flags: int = 0
    """Set as well where the configuration's ipvs.scheduler names it, for kube-proxy always sets them."""
    table_size: int = 0
    """More real servers than this are not all served; 0: any number is."""
    weight_sum: int = 0
    """Where the sum of weights is above this, not all are served in proportion; 0: any sum will do."""
    keeps_places: bool = False
    """Whether a real server of weight 0 has the places in the table that it had before: none if it came with
    it, so that nodes on which it came with another weight choose otherwise."""
    since: str = "2.6"
    """The kernel that first had it; all that were there in 2.6 are older than that."""

    @property
    def module(self) -> str:
        """Return the kernel module that offers it."""
        return f"ip_vs_{self.name}"

    @property
    def default_flags(self) -> int:
        """Return the flags for a configuration that names it as ipvs.scheduler."""
        return self.safe_flags | self.kube_proxy_flags

    @property
    def can_ramp(self) -> bool:
        """Tell whether a weight that grows brings a real server more and more connections, and moves none."""
        return self.weight is Weight.SHARE and not self.table_size

    @property
    def flag_bits(self) -> dict[str, int]:
        """Return the bits of all flags that it takes, by name: those of its own, and the plain ones."""
        own = zip(self.flags, FLAG_BITS, strict=False)
        return {**dict(own), **dict(zip(PLAIN_FLAGS, FLAG_BITS, strict=True))}

    def can_drain(self, flags: int) -> bool:
        """Tell whether, under these flags, clients of a real server of weight 0 are sent to another."""
        # Only those that look a client up in a table refuse; dh has no flag against it.
        return not self.table_size or bool(flags & self.safe_flags)
