"""Packet tests run in the lab."""

from tests.lab import agent_log, lab, node

__all__ = ["agent_log", "lab", "node"]
