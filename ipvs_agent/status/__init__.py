"""ipvsadm's listings of the kernel's table, as text; each format is a module with a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ipvs_agent.status import default
from ipvs_agent.status.listing import Listing

RENDERERS: Mapping[str, Callable[[Listing], str]] = {"default": default.render}
"""How to render a listing, by the name of the format."""
