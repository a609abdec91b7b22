"""What `check` saw of a node, and what it makes of it: frozen values."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from ipvs_agent.addresses import Family
from ipvs_agent.kernel.api import Rules
from ipvs_agent.model import VirtualServerKey
from ipvs_agent.observed import NativeChain


class Level(enum.Enum):
    """How much is wrong."""

    ERROR = "error"
    """The agent cannot serve."""
    WARNING = "warning"
    """It serves, but not all, or not as asked."""


class Finding(msgspec.Struct, frozen=True):
    """Something that is wrong."""

    level: Level
    subject: str
    """What it is about, in a word or two."""
    what: str
    """What is wrong with it, and what comes of that."""
    mend: str
    """What to do about it."""


class ModuleState(enum.Enum):
    """What can be told of a kernel module without loading it."""

    THERE = "loaded or built in"
    INSTALLED = "can be loaded"
    MISSING = "not installed"
    UNKNOWN = "not loaded, and the folder of modules cannot be read"


class Setting(msgspec.Struct, frozen=True):
    """A sysctl."""

    value: str | None
    """None where the kernel does not have it, or not yet."""
    is_writable: bool


class Facts(msgspec.Struct, frozen=True):
    """What was seen of a node."""

    modules: Mapping[str, ModuleState]
    tools: frozenset[str]
    """Those of findings.TOOLS that are in PATH."""
    settings: Mapping[str, Setting]
    has_ipv6: bool
    release: str = ""
    """The kernel's."""
    rules: tuple[Rules, ...] = ()
    """Of every flavour and family that can be read."""
    native: tuple[NativeChain, ...] = ()
    """Chains that only nftables has."""
    families: frozenset[Family] = frozenset()
    """Those of the node's own addresses."""
    link_kind: str | None = None
    """What kube-ipvs0 was made as; None where there is none."""
    link_is_ours: bool = False
    bridge_is_there: bool = True
    """Whether there is the bridge that the configuration names; true where it names none."""
    foreign: tuple[VirtualServerKey, ...] = ()
    """The virtual servers that are not ours."""
