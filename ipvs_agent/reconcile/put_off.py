"""What a virtual server is while it keeps the scheduler that it has, though another one is wanted."""

from __future__ import annotations

from collections import Counter

import msgspec

from ipvs_agent.model import Frontend, ObjectName, VirtualServer, VirtualServerKey
from ipvs_agent.reconcile.achieved import Held
from ipvs_agent.schedulers import SCHEDULERS, flag_names
from ipvs_agent.schedulers.weights import fit


def with_held_scheduler(wanted: Frontend, held: Held) -> Frontend:
    """Return what is wanted, with the scheduler that is held and weights that are for that one.

    A weight may be a share, a rank or a capacity: those for the wanted scheduler would have the held one
    refuse clients, or send them all to one real server. What serves keeps its weight; what comes gets the one
    that most of those have, and what is to have none gets none.
    """
    weights = {endpoint: server.weight for endpoint, server in held.real_servers.items() if server.weight}
    usual = Counter(weights.values()).most_common(1)[0][0] if weights else 1
    numbers = [weights.get(server.endpoint, usual) if server.weight else 0 for server in wanted.real_servers]
    scheduler = SCHEDULERS.get(held.virtual_server.scheduler)
    if scheduler is not None and len(numbers) <= scheduler.weight_sum:
        numbers = fit(numbers, scheduler.weight_sum)
    real_servers = tuple(
        [
            msgspec.structs.replace(server, weight=number)
            for server, number in zip(wanted.real_servers, numbers, strict=True)
        ]
    )
    return msgspec.structs.replace(wanted, virtual_server=held.virtual_server, real_servers=real_servers)


class PutOff:
    """The virtual servers that wait for another scheduler or flags, and how that is said of Services."""

    def __init__(self) -> None:
        self._owners: dict[VirtualServerKey, ObjectName] = {}
        self._texts: dict[ObjectName, dict[VirtualServerKey, str]] = {}
        self._changed: dict[ObjectName, None] = {}

    def __contains__(self, key: object) -> bool:
        """Tell whether a virtual server waits."""
        return key in self._owners

    def note(self, owner: ObjectName, wanted: VirtualServer, held: VirtualServer) -> None:
        """Take note of what a Service's virtual server is to be, and is until nothing drains behind it."""
        key = held.key
        names = [" ".join((one.scheduler, *flag_names(one.scheduler, one.flags))) for one in (wanted, held)]
        text = f"scheduler {names[0]} waits until nothing drains behind {key}, which has {names[1]}"
        if self._owners.get(key) == owner and self._texts[owner][key] == text:
            return
        self.forget(key)
        self._owners[key] = owner
        self._texts.setdefault(owner, {})[key] = text
        self._changed[owner] = None

    def forget(self, key: VirtualServerKey) -> None:
        """Take note that a virtual server waits no longer."""
        owner = self._owners.pop(key, None)
        if owner is not None:
            texts = self._texts[owner]
            del texts[key]
            if not texts:
                del self._texts[owner]
            self._changed[owner] = None

    def take_changed(self) -> dict[ObjectName, list[str]]:
        """Return what is said now of the Services of which it is not what it was at the last time."""
        changed, self._changed = self._changed, {}
        return {name: list(self._texts.get(name, {}).values()) for name in changed}
