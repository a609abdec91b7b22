"""Listings of the kernel's table: ipvsadm's as text, and JSON; each format is a module with a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ipvs_agent.status import as_json, default
from ipvs_agent.status.listing import Listing

RENDERERS: Mapping[str, Callable[[Listing], str]] = {"default": default.render, "json": as_json.render}
"""How to render a listing, by the name of the format."""
