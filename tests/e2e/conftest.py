"""The lab, with a real API server beside the machine: python -m tests.kube run -- COMMAND."""

from tests.lab import agent_log, lab, node

__all__ = ["agent_log", "lab", "node"]
