"""Packet tests run in the lab."""

from tests.lab import agent_log, in_background, lab, node

__all__ = ["agent_log", "in_background", "lab", "node"]
