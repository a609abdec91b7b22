"""What the agent is told to do: kube-proxy's configuration file and the agent's own, read into values."""

from ipvs_agent.config.agent import read_agent_configuration
from ipvs_agent.config.kube_proxy import read_kube_proxy_configuration
from ipvs_agent.config.remarks import remarks
from ipvs_agent.config.values import AgentConfig, DetectLocal, Lists, LocalMode, node_name

__all__ = [
    "AgentConfig",
    "DetectLocal",
    "Lists",
    "LocalMode",
    "node_name",
    "read_agent_configuration",
    "read_kube_proxy_configuration",
    "remarks",
]
