"""What the agent is told to do: values with kube-proxy's defaults, and kube-proxy's file read into them."""

from ipvs_agent.config.kube_proxy import read_kube_proxy_configuration
from ipvs_agent.config.values import AgentConfig, node_name

__all__ = ["AgentConfig", "node_name", "read_kube_proxy_configuration"]
