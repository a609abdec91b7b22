"""Everything the agent raises on purpose.

AgentError
├── ConfigError                 a configuration file or flag cannot be used
├── SourceError                 a source cannot be read now; what it said last stays in force
└── KernelError                 the kernel refused a request
    ├── AlreadyExists           what was to be added is there
    ├── NotFound                what was to be changed or removed is not there
    │   └── NoVirtualServer     the virtual server of a real server is not there
    ├── UnknownScheduler        this kernel has no such scheduler
    ├── InvalidRequest          a value that the kernel does not take
    │   └── NotAnAddress        the source of a route is no address of the node
    ├── PermissionDenied        CAP_NET_ADMIN is missing in this network namespace
    ├── Busy                    something still refers to it
    ├── PartlyRefused           some or all of what an operation stands for was refused
    ├── SetFull                 the ipset has reached its maxelem
    ├── MissingModule           a kernel module is needed and cannot be loaded
    └── CommandFailed           iptables-restore, iptables-save or modprobe failed
"""

from __future__ import annotations

from collections.abc import Sequence


class AgentError(Exception):
    """The base of all errors that the agent raises on purpose."""


class ConfigError(AgentError):
    """A configuration that cannot be used; the message names the file or flag and the field."""


class SourceError(AgentError):
    """A source that cannot be read now; the message names what and why."""


class KernelError(AgentError):
    """A request that the kernel refused.

    number: the errno, or 0 where the refusal has none.
    """

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


class AlreadyExists(KernelError):
    """What was to be added is there."""


class NotFound(KernelError):
    """What was to be changed or removed is not there."""


class NoVirtualServer(NotFound):
    """The virtual server that a real server was meant for is not there."""


class UnknownScheduler(KernelError):
    """This kernel has no such scheduler, built in or as a module."""


class InvalidRequest(KernelError):
    """A value that the kernel does not take."""


class NotAnAddress(InvalidRequest):
    """The source that a route was to prefer is no address of the node, or none by the route's table."""


class PermissionDenied(KernelError):
    """The process lacks CAP_NET_ADMIN in this network namespace."""


class Busy(KernelError):
    """Something still refers to what was to be removed."""


class PartlyRefused(KernelError):
    """Some or all of what an operation stands for was refused; the message is that of the first.

    outcomes: of each part, in their order, None where it was done, else why not.
    """

    def __init__(self, outcomes: Sequence[KernelError | None]) -> None:
        first = next(outcome for outcome in outcomes if outcome is not None)
        super().__init__(str(first), first.number)
        self.outcomes = outcomes


class SetFull(KernelError):
    """The ipset has as many members as it was made for."""


class MissingModule(KernelError):
    """A kernel module is needed and cannot be loaded; the message says how to get it."""


class CommandFailed(KernelError):
    """A node tool failed; the message carries its words."""
