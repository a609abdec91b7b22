"""An IPVS-centric service load balancer for Kubernetes nodes."""

__version__ = "0.1.0.dev0"
