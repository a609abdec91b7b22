"""What the reconciler says to people: a line for what changed, none for what did not."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from ipvs_agent.addresses import Address, format_address
from ipvs_agent.errors import KernelError
from ipvs_agent.logs import event
from ipvs_agent.model import IpSet, ObjectName, VirtualServerKey
from ipvs_agent.operations import Operation, count
from ipvs_agent.reconcile.claims import Key
from ipvs_agent.reconcile.executor import Failure
from ipvs_agent.reconcile.foundation import Ground
from ipvs_agent.reconcile.timers import LinesDue, Timers
from ipvs_agent.sources.changes import Trouble

logger = logging.getLogger("ipvs_agent")

_NAMED = 3
"""How many Services of a line, or failures of a second, are named before they are only counted."""


_BETWEEN_LINES = 1.0
"""Seconds from one line about what was applied to the next, which says it of all rounds since."""
_SAID_AGAIN = 10.0
"""Seconds within which what is not served is not said in the same words again."""


class Report:
    """Writes log lines."""

    def __init__(self, timers: Timers, clock: Callable[[], float]) -> None:
        self._timers = timers
        self._clock = clock
        self._applied = _Applied()
        self._next_line = 0.0
        self._named = 0
        """Failures that were named in this second."""
        self._unnamed = 0
        self._second_ends = 0.0
        self._said: dict[str, float] = {}
        """When something was last said to be skipped; older ones are in the other, and then dropped."""
        self._said_before: dict[str, float] = {}
        self._said_anew = 0.0

    def skipped(self, fault: object) -> None:
        """Say what is asked for and not served, unless it was said a moment ago."""
        line, now = str(fault), self._clock()
        if now >= self._said_anew:
            self._said_before, self._said = self._said, {}
            self._said_anew = now + _SAID_AGAIN
        last = self._said.get(line) or self._said_before.get(line)
        if last is None or now - last >= _SAID_AGAIN:
            self._said[line] = now
            logger.warning(event("skipped", object=line))

    def trouble(self, trouble: Trouble) -> None:
        """Say that a source cannot be read, or can be again."""
        if trouble.message:
            logger.error(
                event("source fails, keeping its last content", source=trouble.source, error=trouble.message)
            )
        else:
            logger.info(event("source can be read again", source=trouble.source))

    def applied(
        self,
        services: Collection[ObjectName],
        operations: Collection[Operation],
        failures: Collection[Failure],
        seconds: float,
    ) -> None:
        """Say what one round did, with what others do meanwhile if the last line is too young.

        A round that did nothing says nothing.
        """
        if not operations:
            return
        if logger.isEnabledFor(logging.DEBUG):
            for operation in operations:
                logger.debug("operation %s", operation)
        is_waiting = self._applied.operations > 0
        failed = count(failure.operation for failure in failures)
        self._applied.add(services, count(operations), failed, seconds)
        if self._clock() >= self._next_line:
            self._say_applied()
        elif not is_waiting:
            self._timers.add(self._next_line, LinesDue())

    def flush(self) -> None:
        """Say what has not been said yet."""
        self._say_applied()
        if self._unnamed:
            logger.error(event("more operations failed", objects=self._unnamed))
            self._unnamed = 0

    def _say_applied(self) -> None:
        done, self._applied = self._applied, _Applied()
        if not done.operations:
            return
        self._next_line = self._clock() + _BETWEEN_LINES
        names = ",".join(str(name) for name in itertools.islice(done.services, _NAMED))
        more = f"+{len(done.services) - _NAMED}" if len(done.services) > _NAMED else ""
        logger.info(
            event(
                "applied",
                operations=done.operations,
                failed=done.failures,
                ms=done.seconds * 1000,
                **({"rounds": done.rounds} if done.rounds > 1 else {}),
                **({"services": names + more} if done.services else {}),
            )
        )

    def failed(self, failures: Sequence[Failure], attempt: int) -> None:
        """Say what failed, and at which attempt; more than a few in a second are only counted."""
        now = self._clock()
        if now >= self._second_ends:
            self._named, self._second_ends = 0, now + _BETWEEN_LINES
        room = _NAMED - self._named
        for failure in failures[:room]:
            logger.error(event("operation failed, trying again", error=failure.error, attempt=attempt))
        self._named = min(_NAMED, self._named + len(failures))
        if len(failures) > room:
            if not self._unnamed:
                self._timers.add(self._second_ends, LinesDue())
            self._unnamed += len(failures) - room

    def recovered(self, objects: Collection[Key]) -> None:
        """Say that what had failed is done."""
        if objects:
            first = ", ".join(map(_name, itertools.islice(objects, _NAMED)))
            logger.info(event("what had failed is done", objects=len(objects), first=first))

    def laid(self, ground: Ground, before: Ground | None) -> None:
        """Say what the foundation lacked, and for which family its tools fail or work again."""
        if ground.written:
            logger.info(event("foundation laid", wrote=", ".join(ground.written)))
        known = before.refusals if before is not None else {}
        has_moved = before is not None and before.families != ground.families
        for family, reason in ground.refusals.items():
            if family not in known or has_moved:
                is_served = family in ground.families
                text = "family is served by the rules it has" if is_served else "family is not served"
                logger.warning(event(text, family=family.name, reason=reason))
        for family in known.keys() - ground.refusals.keys():
            logger.info(event("the tools of a family work again", family=family.name))
        if ground.blind and not (before and before.blind):
            logger.warning(event("rules of nftables that change marks go unseen", error=ground.blind))
        elif before and before.blind and not ground.blind:
            logger.info(event("rules of nftables can be read again"))
        if before is None and ground.missing_modules:
            logger.warning(event("modules are missing", modules=", ".join(sorted(ground.missing_modules))))

    def lacks_default_scheduler(self, scheduler: str) -> None:
        """Say that Services which ask for no scheduler do not get the configuration's."""
        text = "this kernel lacks the scheduler of the configuration, rr is used"
        logger.warning(event(text, scheduler=scheduler, module=f"ip_vs_{scheduler}"))

    def put_in_order(self, moved: int, failures: int, seconds: float) -> None:
        """Say how many real servers were deleted and added again, and for how long no flow expired."""
        if moved:
            text = "real servers put in the scheduler's order"
            logger.info(event(text, moved=moved, failed=failures, ms=seconds * 1000))

    def not_in_order(self, error: KernelError) -> None:
        """Say why real servers stay in an order that is not the scheduler's, or flows outlive theirs."""
        logger.warning(event("real servers cannot be put in the scheduler's order", error=error))

    def still_draining(self, virtual_servers: int) -> None:
        """Say that connections keep what nobody asks for any more."""
        if virtual_servers:
            logger.info(event("left to the next run, for they have connections", draining=virtual_servers))

    def cut_off(self, virtual_server: VirtualServerKey, connections: int) -> None:
        """Say that connections were ended because their time to drain was over."""
        if connections:
            logger.info(event("drain timeout, ended", connections=connections, virtual_server=virtual_server))

    def not_ready(self, error: Exception, delay: float) -> None:
        """Say that the kernel lacks something or could not be read."""
        logger.error(event("the kernel is not ready", error=error, retry_in_s=delay))

    def grown(self, ip_set: IpSet) -> None:
        """Say that a set takes more members now."""
        logger.info(event("set has grown", set=ip_set.name, capacity=ip_set.capacity))

    def not_grown(self, ip_set: IpSet, error: KernelError) -> None:
        """Say that a set cannot take what it should."""
        logger.error(event("set cannot grow", set=ip_set.name, capacity=ip_set.capacity, error=error))

    def flows(self, count: int, error: KernelError | None, failures: int) -> None:
        """Say what became of flows from before their virtual servers.

        failures: how often in a row it could not be done before, about which one line is enough.
        """
        if error is None and (count or failures):
            logger.info(event("removed flows that are older than their virtual server", flows=count))
        elif error is not None and not failures:
            logger.warning(
                event("flows older than their virtual server go on past it, trying again", error=error)
            )

    def not_preferred(self, source: Address) -> None:
        """Say that the node will not dial VIPs from an address of its own."""
        text = "the kernel refuses to prefer an address as a source, VIPs do without"
        logger.warning(event(text, source=format_address(source)))

    def vips_become_routes(self, count: int) -> None:
        """Say that there are too many VIPs for addresses."""
        logger.info(event("VIPs become local routes, for they are many", vips=count))

    def waits_for_node(self) -> None:
        """Say what keeps the agent from serving."""
        logger.warning(event("waiting for the Node's podCIDRs, which detectLocalMode NodeCIDR needs"))

    def adopted(self, virtual_servers: int, foreign: int) -> None:
        """Say what was found at start."""
        if virtual_servers or foreign:
            logger.info(event("found in the kernel", virtual_servers=virtual_servers, foreign=foreign))

    def serving(self, services: int, virtual_servers: int, vips: int, seconds: Mapping[str, float]) -> None:
        """Say that all which the sources ask for is there, for the first time in this process.

        seconds: how long each stage of the start took.
        """
        stages = {f"{stage}_ms": round(each * 1000) for stage, each in seconds.items()}
        logger.info(event("serving", services=services, virtual_servers=virtual_servers, vips=vips, **stages))

    def drifted(self, count: int) -> None:
        """Say that the kernel was not as it had been left."""
        if count:
            logger.warning(event("the kernel was changed by others, repairing", objects=count))


class _Applied:
    """What was done since it was last said."""

    def __init__(self) -> None:
        self.rounds = 0
        self.operations = 0
        self.failures = 0
        self.seconds = 0.0
        self.services: dict[ObjectName, None] = {}

    def add(self, services: Collection[ObjectName], operations: int, failures: int, seconds: float) -> None:
        self.rounds += 1
        self.operations += operations
        self.failures += failures
        self.seconds += seconds
        self.services.update(dict.fromkeys(services))


def _name(key: Key) -> str:
    return format_address(key) if isinstance(key, bytes) else str(key)
