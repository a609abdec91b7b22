"""What the agent is told to do: values with kube-proxy's defaults, and kube-proxy's file read into them."""

from ipvs_agent.config.kube_proxy import read_kube_proxy_configuration
from ipvs_agent.config.remarks import remarks
from ipvs_agent.config.values import AgentConfig, DetectLocal, LocalMode, node_name

__all__ = [
    "AgentConfig",
    "DetectLocal",
    "LocalMode",
    "node_name",
    "read_kube_proxy_configuration",
    "remarks",
]
