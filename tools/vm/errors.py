"""What can go wrong with the machine itself, as opposed to the command that it runs."""

from __future__ import annotations


class MachineError(Exception):
    """No machine, or a machine that went away; `exit_status` is what the launcher ends with."""

    exit_status = 125


class Unavailable(MachineError):
    """A backend lacks something on this host; the message says what, and what to do."""


class Died(MachineError):
    """The machine ended before its command did."""


class Hung(MachineError):
    """The time limit passed before the command ended."""

    exit_status = 124
