"""Listings of the kernel's table: ipvsadm's as text, of which each is a module with a format, and JSON."""

from __future__ import annotations

from collections.abc import Mapping

from ipvs_agent.status import default
from ipvs_agent.status.text import Format

FORMATS: Mapping[str, Format] = {"default": default.FORMAT}
"""How the listings of ipvsadm look, by name."""
