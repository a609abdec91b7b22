"""What a configuration asks for and does not get, for the log and for `check`."""

from __future__ import annotations

from ipvs_agent.config.values import AgentConfig


def remarks(config: AgentConfig) -> tuple[str, ...]:
    """Return a sentence for each thing that was asked for and cannot be done."""
    if not config.localhost_node_ports:
        return ()
    return (
        "iptables.localhostNodePorts is true, but IPVS cannot serve node ports on 127.0.0.1:"
        " dial another address of the node",
    )
