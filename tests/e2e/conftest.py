"""The lab, with a real API server beside the machine: python -m tests.kube run -- COMMAND."""

from tests.lab import agent_log, in_background, lab, node

__all__ = ["agent_log", "in_background", "lab", "node"]
