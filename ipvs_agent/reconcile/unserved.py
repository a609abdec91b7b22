"""What is asked for and not served: said once in the log, to the Service's users, and on this node.

An object may be at fault in itself, a Service may ask for what this node cannot give, and an address may be
another's. Each of the three is said when it comes and forgotten when it goes. What a Service only has to wait
for is said on this node alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable

from ipvs_agent.model import (
    EndpointSlice,
    ObjectName,
    Protocol,
    Service,
    ServicePort,
    Skipped,
    format_endpoint,
)
from ipvs_agent.reconcile.claims import FOREIGN, Contest
from ipvs_agent.reconcile.outlets import Outlets
from ipvs_agent.reconcile.report import Report
from ipvs_agent.sources.changes import Kind, Listed, Put, Rejected, Removed

INVALID = "Invalid"
"""The reason of an Event: a field says what cannot be served."""
ADDRESS_TAKEN = "AddressTaken"
"""The reason of an Event: an older Service, or somebody else on the node, has the address and port."""

MOST_SAID = 8
"""How many faults of a Service are said of each of the three topics; objects have room for thousands, and the
Events of other Services would wait for them."""

_BY_ITSELF, _HERE, _CONTESTS, _PUT_OFF = range(4)
_NOTHING: tuple[tuple[str, ...], ...] = ((), (), (), ())
"""By topic, of the four above."""


class Unserved:
    """Remembers what was said, so that it is not said again.

    service: finds a Service by its name, and tells whether it has an endpoint on this node.
    """

    def __init__(
        self, outlets: Outlets, report: Report, service: Callable[[ObjectName], tuple[Service, bool] | None]
    ) -> None:
        self._outlets = outlets
        self._report = report
        self._service = service
        self._faults: dict[tuple[Kind, ObjectName], tuple[str, ...]] = {}
        self._of_services: dict[ObjectName, tuple[tuple[str, ...], ...]] = {}
        self._uids: dict[ObjectName, str] = {}
        """Those of the Services whose users were told something."""
        self._rejected: set[tuple[Kind, ObjectName]] = set()
        """Unusable objects that were said since the last list of their kind: a list does not name them."""

    def changed(self, change: Put | Removed | Rejected | Listed) -> None:
        """Say which parts of an object are left out, and forget what was said of one that is gone."""
        if isinstance(change, Listed):
            self._forget_all_but(change)
        elif change.name is None:
            self._report.skipped(change.skipped)
        elif isinstance(change, Rejected):
            self._rejected.add((change.kind, change.name))
            self._say_of(change.kind, change.name, (change.skipped,))
        else:
            self._rejected.discard((change.kind, change.name))
            if isinstance(change, Put) and isinstance(change.object, Service):
                self._forget_namesake(change.object)
            skipped = change.object.skipped if isinstance(change, Put) else ()
            self._say_of(change.kind, change.name, skipped)

    def planned(self, name: ObjectName, skipped: Iterable[Skipped]) -> None:
        """Say what a Service asks for and this node cannot give."""
        self._tell(name, _HERE, INVALID, _texts(skipped))

    def orphaned(self, name: ObjectName, slices: Iterable[EndpointSlice]) -> None:
        """Say which slices have no Service to be served."""
        reason = f"there is no Service {name} to be served"
        self._tell(name, _HERE, INVALID, tuple([f"EndpointSlice {one.name}: {reason}" for one in slices]))

    def contested(self, name: ObjectName, contests: Collection[Contest]) -> None:
        """Say which addresses a Service does not get because another has them."""
        texts: dict[str, None] = {}
        if contests:
            found = self._service(name)
            ports = found[0].ports if found is not None else ()
            texts = dict.fromkeys(_contest(contest, ports) for contest in contests)
        self._tell(name, _CONTESTS, ADDRESS_TAKEN, tuple(texts))

    def put_off(self, name: ObjectName, texts: Iterable[str]) -> None:
        """Note what a Service has to wait for."""
        self._note(name, _PUT_OFF, _fewer(tuple(texts), "and so do others of its addresses and ports"))

    def flush(self) -> None:
        """Have people on this node see what was said since the last time."""
        self._outlets.notes.flush()

    def _forget_all_but(self, listed: Listed) -> None:
        # An unusable object that goes between two lists without a word is forgotten with the list after them.
        staying = {name for kind, name in self._rejected if kind is listed.kind}
        known = [*self._faults, *((Kind.SERVICE, name) for name in self._of_services)]
        for kind, name in known:
            if kind is listed.kind and name not in listed.names and name not in staying:
                self._say_of(kind, name, ())
        self._rejected.difference_update({(listed.kind, name) for name in staying})

    def _forget_namesake(self, service: Service) -> None:
        """Forget what was said of an earlier Service of that name: nobody looks for it at this one."""
        if self._uids.get(service.name, service.uid) != service.uid:
            for topic in (_BY_ITSELF, _HERE, _CONTESTS):
                self._tell(service.name, topic, "", ())

    def _say_of(self, kind: Kind, name: ObjectName, skipped: Iterable[Skipped]) -> None:
        if kind is Kind.SERVICE:
            self._tell(name, _BY_ITSELF, INVALID, _texts(skipped))
        else:
            self._log_anew(kind, name, skipped)

    def _log_anew(self, kind: Kind, name: ObjectName, skipped: Iterable[Skipped]) -> None:
        before = self._faults.pop((kind, name), ())
        lines = tuple(map(str, skipped))
        for line in lines:
            if line not in before:
                self._report.skipped(line)
        if lines:
            self._faults[kind, name] = lines

    def _tell(self, name: ObjectName, topic: int, reason: str, texts: tuple[str, ...]) -> None:
        texts = _fewer(texts, f"there are more faults than these {MOST_SAID}")
        said = self._of_services.get(name, _NOTHING)
        for text in texts:
            if text not in said[topic]:
                self._report.skipped(f"Service {name}: {text}")
                self._tell_users(name, reason, text)
        self._note(name, topic, texts)

    def _note(self, name: ObjectName, topic: int, texts: tuple[str, ...]) -> None:
        said = self._of_services.get(name, _NOTHING)
        if said[topic] == texts:
            return
        said = (*said[:topic], texts, *said[topic + 1 :])
        if said == _NOTHING:
            del self._of_services[name]
            self._uids.pop(name, None)
        else:
            self._of_services[name] = said
        self._outlets.notes.replace(name, tuple(itertools.chain.from_iterable(said)))

    def _tell_users(self, name: ObjectName, reason: str, text: str) -> None:
        found = self._service(name)
        if found is None:
            return
        service, is_near = found
        self._uids[name] = service.uid
        self._outlets.events.warn(service, reason, text, near=is_near)


def _fewer(texts: tuple[str, ...], more: str) -> tuple[str, ...]:
    return (*texts[:MOST_SAID], more) if len(texts) > MOST_SAID else texts


def _texts(skipped: Iterable[Skipped]) -> tuple[str, ...]:
    return tuple([f"{one.field}: {one.reason}" for one in skipped])


def _contest(contest: Contest, ports: Iterable[ServicePort]) -> str:
    key, winner = contest.key, contest.winner
    of_service = {
        (address, port.port)
        for port in ports
        for address in (port.cluster_ip, *port.external_ips, *port.load_balancer_ips)
    }
    is_of_service = (key.address, key.port) in of_service
    # A NodePort is at other addresses on each node, and all nodes are to say it in the same words.
    dialled = format_endpoint(key.address, key.port) if is_of_service else f"NodePort {key.port}"
    taker = "a virtual server that is not ours" if winner == FOREIGN else winner.name
    return f"{dialled}/{Protocol(key.protocol).name} is taken by {taker}"
