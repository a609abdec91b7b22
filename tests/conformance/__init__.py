"""ipvs-agent beside the real kube-proxy: the same objects for both, the same tables and packets from both."""
