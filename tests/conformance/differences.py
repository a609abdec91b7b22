"""The intended differences: where the agent does not do what kube-proxy does, and why. There are no others.

A rule explains a difference if its predicate says so; the scenarios together must use every rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from tests.conformance.cases import Target
from tests.conformance.compare import Asked, Difference
from tests.conformance.dialling import REFUSED, SILENT
from tests.conformance.lan import API, INSIDE, NODE_ADDRESSES, NODE_IPS, NODES, server_name
from tests.conformance.situation import (
    CLUSTER,
    GONE,
    HEALTH,
    OUTSIDE,
    Reading,
    Servers,
    Situation,
    in_cluster,
    on_node,
)
from tests.conformance.tables import VirtualServer

Predicate = Callable[[Difference, Situation], bool]


@dataclass(frozen=True)
class Rule:
    """An intended difference."""

    name: str
    reason: str
    explains: Predicate
    is_by_chance: bool = False
    """Whether the sides differ only at times, so that no scenario can be sure to show it."""
    configured: str = ""
    """The field of the configuration that makes the difference; empty: there is one without any."""


# --- What is removed ----------------------------------------------------------------------------------------


def _lingers(difference: Difference, situation: Situation) -> bool:
    """What nobody wants any more: they have nothing, we have nobody who takes a new connection."""
    where, theirs, ours = difference.where, difference.theirs, difference.ours
    before = [Situation(state) for state in situation.earlier]
    if isinstance(where, str):
        return theirs is None and where not in situation.vips and any(where in one.vips for one in before)
    if situation.kind(where) != GONE or all(one.kind(where) == GONE for one in before):
        return False
    if isinstance(theirs, Asked) and isinstance(ours, Asked):
        return not theirs.is_answered and ours.outcomes == {REFUSED}
    return theirs is None and isinstance(ours, VirtualServer) and not ours.servers


# --- Policy Local -------------------------------------------------------------------------------------------


def _is_split(difference: Difference, situation: Situation) -> bool:
    where, theirs, ours = difference.where, difference.theirs, difference.ours
    return (
        isinstance(where, Target)
        and situation.kind(where) in OUTSIDE
        and situation.is_local(where)
        and isinstance(theirs, VirtualServer)
        and isinstance(ours, VirtualServer)
        and ours.inside is not None
        and theirs.options == ours.options
        and ours.inside_options == (_BY_SOURCE if _has_affinity(situation) else ours.options)
        and _addresses(theirs.servers) in _theirs(where, situation)
        and _addresses(ours.servers) == on_node(_meant(where, situation))
        and _addresses(ours.inside) == in_cluster(_meant(where, situation))
    )


def _reaches_all(difference: Difference, situation: Situation) -> bool:
    """Clients inside: we answer from everywhere, as the node; they from here, and many answers get lost."""
    where, theirs, ours = difference.where, difference.theirs, difference.ours
    if not isinstance(where, Target) or not isinstance(theirs, Asked) or not isinstance(ours, Asked):
        return False
    everybody = in_cluster(_meant(where, situation))
    # With br_netfilter and without hairpin mode, a bridge does not give a pod its own packets back.
    lost = _of_pod("a", everybody) if difference.caller == "a" else frozenset()
    expected = _names(everybody) - lost
    return (
        difference.caller in INSIDE
        and situation.kind(where) in OUTSIDE
        and situation.is_local(where)
        and bool(everybody)
        and (ours.names <= expected | lost if _has_affinity(situation) else ours.names == expected)
        and ours.sources <= {*NODE_ADDRESSES, API, _THE_NODE}
        and ours.failures <= ({SILENT} if lost else set())
        and any(theirs.names <= _names(servers) for servers in _theirs(where, situation))
        and theirs.failures <= {SILENT}
    )


def _is_silent_outside(difference: Difference, situation: Situation) -> bool:
    """A client outside, where no endpoint is here: silence; they ask all, and many answers get lost."""
    where, theirs, ours = difference.where, difference.theirs, difference.ours
    return (
        isinstance(where, Target)
        and isinstance(theirs, Asked)
        and isinstance(ours, Asked)
        and difference.caller not in INSIDE
        and situation.kind(where) in OUTSIDE
        and situation.is_local(where)
        and not on_node(_meant(where, situation))
        and any(theirs.names <= _names(servers) for servers in _theirs(where, situation))
        and theirs.failures <= {SILENT}
        and ours.outcomes == {SILENT}
    )


def _stays_local(difference: Difference, situation: Situation) -> bool:
    """A cluster IP without a local endpoint: nobody here, everybody there."""
    where, theirs, ours = difference.where, difference.theirs, difference.ours
    if not isinstance(where, Target) or situation.kind(where) != CLUSTER or not situation.is_local(where):
        return False
    if on_node(_meant(where, situation)):
        return False
    if isinstance(theirs, VirtualServer) and isinstance(ours, VirtualServer):
        is_theirs = _addresses(theirs.servers) in _theirs(where, situation)
        return is_theirs and not ours.servers and theirs.options == ours.options
    if isinstance(theirs, Asked) and isinstance(ours, Asked):
        return theirs.failures <= {SILENT} and ours.outcomes == {REFUSED}
    return False


# --- Endpoints ----------------------------------------------------------------------------------------------


def _takes_another_copy(difference: Difference, situation: Situation) -> bool:
    """Slices contradict each other, and they believe another one than we do."""
    where, theirs, ours = difference.where, difference.theirs, difference.ours
    if not isinstance(where, Target) or len(situation.readings(where)) < 2 or ours is None:
        return False
    ours_meant = _ours(where, difference.caller, situation)
    if isinstance(theirs, VirtualServer) and isinstance(ours, VirtualServer):
        is_theirs = _addresses(theirs.servers) in _theirs(where, situation)
        return is_theirs and _addresses(ours.servers) == ours_meant and theirs.options == ours.options
    if isinstance(theirs, Asked) and isinstance(ours, Asked):
        is_theirs = any(theirs.names <= _names(servers) for servers in _theirs(where, situation))
        return is_theirs and theirs.failures <= {SILENT, REFUSED} and _is_served(ours, ours_meant, difference)
    return False


def _is_served(ours: Asked, meant: Servers, difference: Difference) -> bool:
    """Tell whether a client meets the servers that are meant, or nobody where there are none."""
    if not meant:
        return not ours.is_answered and ours.failures <= {SILENT, REFUSED}
    # Neighbours answer a pod directly, and are not understood.
    neighbours = _at_home(difference.caller, meant)
    is_answered = bool(ours.names) or neighbours == _names(meant)
    return (
        is_answered and ours.names <= _names(meant) and ours.failures <= ({SILENT} if neighbours else set())
    )


# --- Affinity -----------------------------------------------------------------------------------------------


def _keeps_at_a_neighbour(difference: Difference, situation: Situation) -> bool:
    """One side keeps a pod at a server of its own node, who answers it directly; the other one elsewhere."""
    where, theirs, ours = difference.where, difference.theirs, difference.ours
    if not isinstance(where, Target) or not isinstance(theirs, Asked) or not isinstance(ours, Asked):
        return False
    lost, heard = (theirs, ours) if theirs.outcomes == {SILENT} else (ours, theirs)
    servers = _ours(where, difference.caller, situation).union(*_theirs(where, situation))
    return (
        _has_affinity(situation)
        and lost.outcomes == {SILENT}
        and lost.kept_at in _at_home(difference.caller, servers)
        and heard.is_answered
        and not heard.failures
        and heard.names <= _names(servers)
    )


def _counts_one_family(difference: Difference, situation: Situation) -> bool:
    """A page that is the same but for the number: one of either family's there, the larger one's here."""
    where, theirs, ours = difference.where, difference.theirs, difference.ours
    if not isinstance(where, Target) or situation.kind(where) != HEALTH:
        return False
    if not isinstance(theirs, Asked) or not isinstance(ours, Asked):
        return False
    numbers = situation.health()
    return _is_page(ours, max(map(max, numbers))) and _is_page_of_a_family(theirs, numbers)


def _has_lost_its_port(difference: Difference, situation: Situation) -> bool:
    """The family whose server had the port is not there any more, and the other's has not tried again."""
    where, theirs, ours = difference.where, difference.theirs, difference.ours
    if not isinstance(where, Target) or situation.kind(where) != HEALTH:
        return False
    if not isinstance(theirs, Asked) or not isinstance(ours, Asked):
        return False
    is_ours = _is_page(ours, max(map(max, situation.health())))
    return theirs.outcomes == {REFUSED} and is_ours and situation.has_left_a_family(where)


def _listens_elsewhere(difference: Difference, situation: Situation) -> bool:
    """Addresses of a family that no network was named of, or outside of those that were."""
    where, theirs, ours = difference.where, difference.theirs, difference.ours
    named = situation.configuration.get(_NODE_PORT_ADDRESSES)
    if not isinstance(named, list) or not isinstance(where, Target) or situation.kind(where) != HEALTH:
        return False
    if not isinstance(theirs, Asked) or not isinstance(ours, Asked):
        return False
    address, numbers = ip_address(where.address), situation.health()
    networks = [one for one in map(ip_network, named) if one.version == address.version]
    if not networks:
        return theirs.outcomes == {REFUSED} and _is_page(ours, max(map(max, numbers)))
    is_out = not any(address in one for one in networks)
    return is_out and ours.outcomes == {REFUSED} and _is_page_of_a_family(theirs, numbers)


def _is_page_of_a_family(asked: Asked, numbers: Sequence[range]) -> bool:
    return any(_is_page(asked, one) for family in numbers for one in family)


def _is_page(asked: Asked, number: int) -> bool:
    status = "200" if number else "503"
    return all(
        one.startswith(f"{status};")
        and f"x-load-balancing-endpoint-weight={number};" in one
        and f'"localEndpoints":{number},' in one
        for one in asked.outcomes
    )


# --- Source ranges ------------------------------------------------------------------------------------------


def _drops_before_it_refuses(difference: Difference, situation: Situation) -> bool:
    """The node off the ranges, and nobody to serve: refused there, silent here."""
    where, theirs, ours = difference.where, difference.theirs, difference.ours
    return (
        isinstance(where, Target)
        and isinstance(theirs, Asked)
        and isinstance(ours, Asked)
        and difference.caller == _THE_NODE
        and situation.is_off_range(where, NODE_IPS)
        and not all(_theirs(where, situation))
        and theirs.outcomes == {REFUSED}
        and ours.outcomes == {SILENT}
    )


# --- What rules are made of ---------------------------------------------------------------------------------

_THE_NODE = "node"
_NODE_PORT_ADDRESSES = "nodePortAddresses"
_BY_SOURCE = "-s sh -b sh-fallback"


def _meant(target: Target, situation: Situation) -> Reading:
    return situation.readings(target)[0]


def _theirs(target: Target, situation: Situation) -> Sequence[Servers]:
    """Return whom kube-proxy may have behind a target, for each reading of the slices."""
    readings = situation.readings(target)
    if not situation.is_local(target):
        return [in_cluster(one) for one in readings]
    if situation.is_for_clients_inside_alone(target):
        return [on_node(one) for one in readings]  # UsesClusterEndpoints of kube-proxy's serviceport.go
    return [on_node(one) or in_cluster(one) for one in readings]


def _ours(target: Target, caller: str, situation: Situation) -> Servers:
    """Return whom we mean a client to meet; whoever it is where the tables are asked."""
    is_inside = caller in INSIDE and situation.kind(target) in OUTSIDE
    is_of_node = situation.is_local(target) and not is_inside
    return (on_node if is_of_node else in_cluster)(_meant(target, situation))


def _addresses(servers: Iterable[str]) -> Servers:
    return frozenset(server.split()[0] for server in servers)


def _names(servers: Iterable[str]) -> Servers:
    return frozenset(map(server_name, servers))


def _of_pod(pod: str, servers: Servers) -> frozenset[str]:
    return frozenset(name for name in _names(servers) if name.partition(":")[0] == pod)


def _at_home(caller: str, servers: Servers) -> frozenset[str]:
    """Return the names of those servers that are on the node of a pod; none for who is no pod."""
    home = NODES.get(caller)
    return frozenset(
        name for name in _names(servers) if home is not None and NODES.get(name.partition(":")[0]) == home
    )


def _has_affinity(situation: Situation) -> bool:
    return bool(situation.spec.get("sessionAffinity") == "ClientIP")


RULES: Sequence[Rule] = (
    Rule(
        "what is removed lingers",
        "kube-proxy breaks the connections of a Service, port or address that is removed; the agent lets them"
        " end (k/k#71071, #81308)",
        _lingers,
        is_by_chance=True,  # for seconds, within which both sides may not be asked
    ),
    Rule(
        "external policy Local: two virtual servers",
        "with policy Local, kube-proxy has one virtual server for everybody: local endpoints, or all where"
        " none is local; the agent has one more, by mark, with all endpoints for clients inside (k/k#93456,"
        " #75262)",
        _is_split,
    ),
    Rule(
        "external policy Local: clients inside reach every endpoint",
        "the policy is about clients outside, but kube-proxy keeps pods and the node at local endpoints, and"
        " loses the answers of pods of other nodes; the agent masquerades them, since it cannot know which"
        " pods are here (k/k#93456, #75262)",
        _reaches_all,
    ),
    Rule(
        "external policy Local: silence outside without a local endpoint",
        "that is what the policy is for; kube-proxy asks every endpoint then, and one that is here unsaid"
        " (no nodeName) answers (k/k#93456)",
        _is_silent_outside,
    ),
    Rule(
        "internal policy Local: refused without a local endpoint",
        "the API says that such traffic is dropped; kube-proxy takes all endpoints if the Service is"
        " reachable from outside (KEP-2086; by k/k PR 97081, meant for the external policy)",
        _stays_local,
    ),
    Rule(
        "of an endpoint in several slices, the copy in the best state counts",
        "kube-proxy believes whichever slice comes last, in no order, and so may leave out a ready endpoint"
        " (k/k#135266)",
        _takes_another_copy,
    ),
    Rule(
        "session affinity: each side keeps a client where it came first",
        "which endpoint is the first one is chance on either side; a pod that is kept at one of its own node"
        " gets that one's answer past the node, and does not understand it (the lab's bridge)",
        _keeps_at_a_neighbour,
        is_by_chance=True,
    ),
    Rule(
        "health checks count a pod once, in whichever family",
        "kube-proxy has a server for each family on the same port, and whoever gets it counts its own"
        " endpoints (k/k#114702, #126960)",
        _counts_one_family,
    ),
    Rule(
        "health checks stay when one family goes",
        "kube-proxy's servers of both families want the same port: when the one that has it goes, nobody"
        " answers until the other family's next change or sync period (k/k#114702, #126960)",
        _has_lost_its_port,
        is_by_chance=True,
    ),
    Rule(
        "health checks answer where node ports do",
        "kube-proxy's server of a family listens where the networks of that family say, or where there are"
        " none on all addresses of both, and gets the port or not; the agent's one server listens where node"
        " ports are: in the networks, and everywhere in a family that has none (k/k#114702, #126960)",
        _listens_elsewhere,
        configured=_NODE_PORT_ADDRESSES,
    ),
    Rule(
        "source ranges come before everything",
        "who is off the ranges is to meet silence; kube-proxy asks it of the node only behind IPVS, which has"
        " refused by then if it has no endpoint (seen here first: no bug is known)",
        _drops_before_it_refuses,
    ),
)


def explain(difference: Difference, situation: Situation) -> str | None:
    """Return the name of the rule by which a difference is intended."""
    return next((rule.name for rule in RULES if rule.explains(difference, situation)), None)
