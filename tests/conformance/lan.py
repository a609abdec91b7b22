"""Where things are in the labs of both sides."""

HERE, ZONE = "node-a", "zone-1"
"""The node that both sides serve, and where it is."""
ZONE_LABEL = "topology.kubernetes.io/zone"
NODE_ADDRESSES = ("192.0.2.1", "10.244.1.1", "2001:db8::1", "fd00:10:244:1::1")
"""Addresses of node-a, apart from that by which it reaches the API server."""
NODE_IPS = ("192.0.2.1", "2001:db8::1")
"""Those of them that are the Node's, by which source ranges know it."""
PODS = {
    "a": ("10.244.1.11", "fd00:10:244:1::11"),
    "b": ("10.244.1.12", "fd00:10:244:1::12"),
    "c": ("10.244.2.13", "fd00:10:244:2::13"),
    "d": ("10.244.2.14", "fd00:10:244:2::14"),
}
"""The addresses of the pods: a and b on node-a, c and d on node-b."""
CALLERS = {
    "client": ("192.0.2.100", "2001:db8::100"),
    "a": PODS["a"],
    "c": PODS["c"],
    "node": NODE_ADDRESSES,
}
"""Who calls, and the addresses that they may call from."""
INSIDE = ("a", "c", "node")
"""The callers inside the cluster."""
NODES = {"a": "node-a", "b": "node-a", "c": "node-b", "d": "node-b"}
TARGET_PORTS = (8080, 8081, 9090)
"""Where every pod answers, on each protocol."""
VIP_NETWORKS = ("10.96.0.0/12", "172.20.0.0/14", "fd00:10:96::/108", "2001:db8:20::/48", "2001:db8:21::/48")
"""Cluster IPs, and external and load balancer addresses: what clients send to node-a."""
API = "api"
"""How tables and answers call the one address in which the two nodes differ."""


def server_name(server: str) -> str:
    """Return POD:PORT for a real server as ipvsadm writes it, or the text as it is."""
    address, _, port = server.split(maxsplit=1)[0].rpartition(":")
    for name, addresses in PODS.items():
        if address.strip("[]") in addresses:
            return f"{name}:{port}"
    return server
