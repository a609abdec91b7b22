"""Who wants which kernel object, and who has it.

Kernel objects are shared: two Services may ask for one external address and port, all ports of a Service
have one VIP, every Service over a pod has the same hairpin member. A virtual server goes to its oldest
claimant, and with it the VIP and the set members that belong to it; VIPs and members stay until their last
holder leaves.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ipvs_agent.addresses import Address
from ipvs_agent.desired import sets
from ipvs_agent.desired.sets import Purpose
from ipvs_agent.model import Frontend, ObjectName, Owner, ServicePlan, SetMember, VirtualServerKey

Key = VirtualServerKey | Address | SetMember
"""What stands for an object in the kernel: a virtual server, a VIP, a set member."""

FOREIGN = Owner("", ObjectName("", ""))
"""Claims a virtual server that is not ours; older than any Service."""
LINGERING = Owner("~", ObjectName("", ""))
"""Claims a virtual server that no Service wants but that still has connections; younger than any Service."""


class Contest(msgspec.Struct, frozen=True):
    """A Service that asks for a virtual server which another has."""

    key: VirtualServerKey
    winner: Owner


class Claims:
    """An index of claims by kernel object."""

    def __init__(self) -> None:
        self._plans: dict[ObjectName, ServicePlan] = {}
        self._frontends: dict[VirtualServerKey, tuple[tuple[Owner, Frontend | None], ...]] = {}
        self._holders = _Holders()

    def frontend(self, key: VirtualServerKey) -> Frontend | None:
        """Return what a virtual server should be; None where it should not be, or is not ours to decide."""
        claims = self._frontends.get(key)
        return claims[0][1] if claims else None

    def owner(self, key: VirtualServerKey) -> Owner | None:
        """Return who has a virtual server."""
        claims = self._frontends.get(key)
        return claims[0][0] if claims else None

    def wanted(self, thing: Address | SetMember) -> bool:
        """Tell whether a VIP or a set member should be there."""
        return thing in self._holders

    def contests(self, name: ObjectName) -> list[Contest]:
        """Return the virtual servers that a Service asks for and does not get."""
        plan = self._plans.get(name)
        if plan is None:
            return []
        held = [(frontend.virtual_server.key, plan.owner) for frontend in plan.frontends]
        return [
            Contest(key, self._frontends[key][0][0])
            for key, owner in held
            if self._frontends[key][0][0] != owner
        ]

    @property
    def vips(self) -> int:
        """How many VIPs are wanted."""
        return self._holders.vips

    def has_plan(self, name: ObjectName) -> bool:
        """Tell whether a Service has claims."""
        return name in self._plans

    def claimants(self, key: VirtualServerKey) -> list[ObjectName]:
        """Return the Services that ask for a virtual server."""
        owners = (owner for owner, _ in self._frontends.get(key, ()))
        return [owner.name for owner in owners if owner not in (FOREIGN, LINGERING)]

    def replace(self, name: ObjectName, plan: ServicePlan | None) -> dict[Key, None]:
        """Put a Service's new plan in place of its last one; return the objects that may have changed."""
        old = self._plans.pop(name, None)
        changed: dict[Key, None] = {}
        if plan is not None:
            self._plans[name] = plan
        before = {} if old is None else {frontend.virtual_server.key: frontend for frontend in old.frontends}
        after = {} if plan is None else {frontend.virtual_server.key: frontend for frontend in plan.frontends}
        is_same_owner = old is not None and plan is not None and old.owner == plan.owner
        if plan is not None:
            for key, frontend in after.items():
                if not is_same_owner or before.get(key) != frontend:
                    self._claim(key, plan.owner, frontend, changed)
            self._holders.add(plan.members, changed)
        if old is not None:
            for key in before:
                if not is_same_owner or key not in after:
                    self.release(key, old.owner, changed)
            self._holders.remove(old.members, changed)
        return changed

    def claim_for_nobody(
        self, key: VirtualServerKey, owner: Owner, frontend: Frontend | None
    ) -> dict[Key, None]:
        """Claim a virtual server for FOREIGN or LINGERING; return the objects that may have changed."""
        changed: dict[Key, None] = {}
        self._claim(key, owner, frontend, changed)
        return changed

    def release(self, key: VirtualServerKey, owner: Owner, changed: dict[Key, None]) -> None:
        """Take an owner's claim on a virtual server back, where there is one."""
        claims = self._frontends.get(key, ())
        remaining = tuple(claim for claim in claims if claim[0] != owner)
        if len(remaining) != len(claims):
            self._set_claims(key, remaining, changed)

    def _claim(
        self, key: VirtualServerKey, owner: Owner, frontend: Frontend | None, changed: dict[Key, None]
    ) -> None:
        others = tuple(claim for claim in self._frontends.get(key, ()) if claim[0] != owner)
        claims = (*others, (owner, frontend))
        self._set_claims(key, tuple(sorted(claims, key=_by_owner)) if others else claims, changed)

    def _set_claims(
        self,
        key: VirtualServerKey,
        claims: tuple[tuple[Owner, Frontend | None], ...],
        changed: dict[Key, None],
    ) -> None:
        before, had = self._frontends.get(key, ())[:1], self._belongings(key)
        if claims:
            self._frontends[key] = claims
        else:
            del self._frontends[key]
        # A new owner of an equal frontend is no change to the kernel, but one to whoever does not get it.
        if before != claims[:1]:
            changed[key] = None
        # What comes is counted before what goes, so that what stays is never reported as gone.
        self._holders.add(self._belongings(key), changed)
        self._holders.remove(had, changed)

    def _belongings(self, key: VirtualServerKey) -> tuple[Address | SetMember, ...]:
        """Return the VIP and the set members that a virtual server has with it."""
        if self.owner(key) == FOREIGN and not key.mark:
            return (sets.port_member(Purpose.OTHERS, key),)
        frontend = self.frontend(key)
        if frontend is None:
            return ()
        return (*frontend.members, *frontend.vips)


def _by_owner(claim: tuple[Owner, Frontend | None]) -> Owner:
    return claim[0]


class _Holders:
    """How many claims hold each VIP and set member."""

    def __init__(self) -> None:
        self.vips = 0
        """How many VIPs are held."""
        self._counts: dict[Address | SetMember, int] = {}

    def __contains__(self, thing: Address | SetMember) -> bool:
        return thing in self._counts

    def add(self, things: Iterable[Address | SetMember], changed: dict[Key, None]) -> None:
        for thing in things:
            count = self._counts.get(thing, 0)
            self._counts[thing] = count + 1
            if not count:
                changed[thing] = None
                self.vips += isinstance(thing, bytes)

    def remove(self, things: Iterable[Address | SetMember], changed: dict[Key, None]) -> None:
        for thing in things:
            count = self._counts[thing] - 1
            if count:
                self._counts[thing] = count
            else:
                del self._counts[thing]
                changed[thing] = None
                self.vips -= isinstance(thing, bytes)
