"""A Service behind a load balancer, on a node that knows its clients inside, for tests of the loop."""

from __future__ import annotations

from ipvs_agent.addresses import Family, format_address, parse_network
from ipvs_agent.desired.shim import Masquerade
from ipvs_agent.errors import KernelError
from ipvs_agent.reconcile.foundation import Needs
from ipvs_agent.testing.builders import endpoint, endpoint_slice, port, service
from tests.unit.test_reconciler import Bench

A, C = endpoint("10.244.1.11", node="node-a"), endpoint("10.244.2.13", node="node-b")
LB = "198.51.100.7"
INSIDE = Needs(masquerade=Masquerade(cluster_networks=(parse_network("10.244.0.0/16"),)))


def balanced(name="shop/web", *, created="2026-01-01T00:00:00Z", **fields):
    """A Service with externalTrafficPolicy Local and a load balancer's address."""
    fields = {"node_port": 30080, "load_balancer_ips": [LB]} | fields
    return service(name, port(**fields), external_local=True, created=created)


def serving(a_service, *endpoints, **options):
    """A bench that has listed a Service and its endpoints, one on this node unless others are given."""
    bench = Bench(**({"needs": INSIDE} | options))
    bench.put(a_service, endpoint_slice(str(a_service.name), endpoints=endpoints or (A, C)))
    return bench.list_all()


def restart(bench, *things, **options):
    """The next agent on a node, which has been told of these things and has not listed all of them."""
    return Bench(bench.kernel, **({"needs": INSIDE} | options)).put(*things)


def marks(bench):
    """The marks of the set, by what clients dial."""
    return {
        f"{format_address(member.address)}:{member.port}": member.mark
        for member in bench.inner.ipsets.members("IPVS-AGENT-4-MARKS")
    }


def by_marks(bench):
    """The virtual servers by mark."""
    found = (one.virtual_server.key for one in bench.inner.ipvs.virtual_servers())
    return [key for key in found if key.mark]


def connect(bench, key, to, active=1):
    """Have a real server hold so many connections."""
    bench.kernel.ipvs.set_connections(key, (to.address, to.port), active=active)


def members_of(bench, purpose):
    """The members of the IPv4 set for a purpose."""
    name = f"IPVS-AGENT-4-{purpose} "
    return {member.removeprefix(name) for member in bench.members() if member.startswith(name)}


def rules(bench):
    """The node's IPv4 rules."""
    return bench.inner.iptables.save(Family.IPV4)


def refuse(adapter, is_refused):
    """Have an adapter of the kernel refuse some operations; return what has it take them again."""
    apply = adapter.apply

    def refusing(batch):
        taken = iter(apply([one for one in batch if not is_refused(one)]))
        return [KernelError(f"{one}: no") if is_refused(one) else next(taken) for one in batch]

    def heal():
        adapter.apply = apply

    adapter.apply = refusing
    return heal
