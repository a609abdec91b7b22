"""Runs cases on both sides at the same time and says where the sides differ."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from tests.conformance import cases, compare, dialling, differences, objects, tables
from tests.conformance.cases import Case, Object, Target
from tests.conformance.compare import BOUND, Difference, Listed
from tests.conformance.lan import HERE, ZONE, ZONE_LABEL
from tests.conformance.sides import Side
from tests.conformance.situation import Situation
from tests.kube.client import Client, RefusedError

_MARKER = ("10.96.255.1", "fd00:10:96::fff1")
_SETTLE_LIMIT = 600.0
_POLL = 0.2
_AS_USUAL: Mapping[str, object] = {}
_ATTEMPTS = ((0.8, 50), (2.0, 50), (3.5, 20), (8.0, 8))
"""Seconds that a call is given, and calls at a time from one host.

Where the sides still differ there are more calls and fewer at a time, so that a slow machine loses none. SCTP
tries again after 3 s for the first time.
"""
_MOST_TRIES = 5
_LOOKS = (0.0, 1.0, 3.0)
"""Seconds before each look at the tables: there are more while they differ."""
Configuration = Mapping[str, object]
"""Fields of KubeProxyConfiguration that are not as for all other cases."""
NewSides = Callable[[Configuration], contextlib.AbstractContextManager[tuple[Side, Side]]]


@dataclass
class Result:
    """What came out of a case."""

    case: Case
    """The case as it ran, in its slot."""
    source: Case
    """The case for any slot."""
    differences: list[tuple[int, Difference]] = field(default_factory=list)
    """Those that no rule explains, each with the number of the state in which it was seen."""
    rules: set[str] = field(default_factory=set)
    """The names of the rules that explained something."""
    refusal: str = ""
    """What the API server said, where it refused an object; then nothing was compared."""

    @property
    def failed(self) -> bool:
        """Whether the sides differ where they may not."""
        return bool(self.differences)


class Arena:
    """Both sides, and the API server that they watch.

    new_sides: starts them as configured, for the length of a with block; close() ends it.
    """

    def __init__(self, new_sides: NewSides, api: Client, random_numbers: random.Random) -> None:
        self._new_sides = new_sides
        self._sides: Sequence[Side] = ()
        self._running = contextlib.ExitStack()
        self._api = api
        self._random = random_numbers
        self._marks = itertools.count(1)
        self._marker: tuple[Object, ...] = ()
        self._namespaces: set[int] = set()
        self._present: Sequence[_Entry] = ()

    def close(self) -> None:
        """Stop both sides."""
        self._running.close()

    def run(self, batch: Sequence[Case], configuration: Configuration = _AS_USUAL) -> list[Result]:
        """Take each case through its states, all at the same time."""
        entries = [_Entry(slot, case, configuration) for slot, case in zip(cases.SLOTS, batch, strict=False)]
        assert len(entries) == len(batch), f"more than {len(cases.SLOTS)} cases"
        self._begin_anew(configuration)
        self._present = entries
        for number in range(max(len(case.states) for case in batch)):
            present = [entry for entry in entries if entry.begins(number)]
            with _timed(f"state {number} of {len(present)} cases: written"):
                for entry in present:
                    self._apply(entry)
            self._settle()
            self._compare([entry for entry in present if not entry.result.refusal], number)
        return [entry.result for entry in entries]

    # --- Objects --------------------------------------------------------------------------------------------

    def _apply(self, entry: _Entry) -> None:
        if entry.slot not in self._namespaces:
            self._namespaces.add(entry.slot)
            name = cases.slot_namespace(entry.slot)
            self._api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        try:
            self._send(entry.applied, entry.state)
        except RefusedError as refusal:
            entry.result.refusal = str(refusal)

    def _send(self, applied: dict[tuple[str, str], Object], state: Iterable[Object]) -> None:
        for verb, thing in cases.edits(list(applied.values()), list(state)):
            name = (thing["kind"], thing["metadata"]["name"])
            match verb:
                case "create":
                    self._api.create(thing)
                    applied[name] = thing
                case "replace":
                    self._api.replace(thing)
                    applied[name] = {**thing, "status": applied[name].get("status")}
                case "delete":
                    self._api.delete(thing)
                    del applied[name]
                case "status":
                    self._api.patch(thing, {"status": thing["status"]}, part="status")
                    applied[name] = thing

    def _begin_anew(self, configuration: Configuration) -> None:
        """Have new sides; to remove what ran before would take kube-proxy much longer."""
        with _timed("both sides started"):
            self.close()
            for entry in self._present:
                self._send(entry.applied, ())
            self._set_zone(None)
            self._sides = self._running.enter_context(self._new_sides(configuration))
        self._settle()
        # kube-proxy may miss for good the labels that its node has when it starts (it listens before it has
        # registered whom to tell), but no change of them. It may settle once more before it heeds that.
        self._set_zone(ZONE)
        self._settle()

    def _set_zone(self, zone: str | None) -> None:
        node = {"kind": "Node", "metadata": {"name": HERE}}
        self._api.patch(node, {"metadata": {"labels": {ZONE_LABEL: zone}}})

    def _settle(self) -> None:
        """Wait until both sides have done all that was asked until now.

        Each kind of object is told in order, so who serves the marker as it is now has heard of everything;
        and kube-proxy ends a sync by removing what it does not want, such as the marker as it was.
        """
        number = next(self._marks)
        marker = _marker(number)
        before = {(thing["kind"], thing["metadata"]["name"]): thing for thing in self._marker}
        self._send(before, marker)
        self._marker = marker
        for side in self._sides:
            with _timed(f"{side.name} settled"):
                _wait(partial(_shows, side, number), _SETTLE_LIMIT, f"{side.name} is settled")

    # --- Comparing ------------------------------------------------------------------------------------------

    def _compare(self, entries: Sequence[_Entry], number: int) -> None:
        by_slot = {entry.slot: entry for entry in entries}
        with _timed("tables compared"):
            lists = self._compare_tables(by_slot)
        for slot, found in self._compare_calls(by_slot, lists).items():
            result = by_slot[slot].result
            result.differences += [(number, one) for one in found]
            for one in found:
                print(f"case {result.case.name}, state {number}: {one}", flush=True)

    def _explain(self, entry: _Entry, found: Iterable[Difference]) -> list[Difference]:
        left = []
        for difference in found:
            rule = differences.explain(difference, entry.situation)
            if rule is None:
                left.append(difference)
            else:
                entry.result.rules.add(rule)
        return left

    def _compare_tables(self, by_slot: Mapping[int, _Entry]) -> Mapping[int, list[Difference]]:
        """Compare until nothing is left to wait for."""
        found: dict[int, list[Difference]] = {}
        for pause in _LOOKS:
            time.sleep(pause)
            theirs, ours = (side.tables() for side in self._sides)
            listed = (_by_slot(theirs), _by_slot(ours))
            found = {}
            for slot, entry in by_slot.items():
                entry.listed = (listed[0].get(slot, {}), listed[1].get(slot, {}))
                found[slot] = self._explain(entry, compare.tables(*entry.listed))
            if not any(found.values()):
                break
        return found

    def _compare_calls(
        self, by_slot: Mapping[int, _Entry], lists: Mapping[int, list[Difference]]
    ) -> Mapping[int, list[Difference]]:
        found = {slot: list(differences) for slot, differences in lists.items()}
        open_calls = {
            (slot, caller, target)
            for slot, entry in by_slot.items()
            for target in sorted(entry.targets)
            for caller in (one.name for one in self._sides[0].callers)
        }
        for attempt in range(len(_ATTEMPTS)):
            with _timed(f"{len(open_calls)} pairs of client and target called"):
                answers = [self._ask(side, by_slot, open_calls, attempt) for side in self._sides]
            kept = (self._sides[0].kept(), self._sides[1].kept())
            differing = {}
            for slot, caller, target in open_calls:
                entry = by_slot[slot]
                theirs, ours = (one[slot, caller, target] for one in answers)
                found_here = compare.answers(caller, target, (theirs, ours), entry.listed, kept)
                left = self._explain(entry, found_here)
                if left:
                    differing[slot, caller, target] = left
            open_calls = set(differing)
            if not open_calls:
                return found
        for (slot, _, _), left in sorted(differing.items(), key=lambda item: item[0]):
            found[slot] += left
        return found

    def _ask(
        self,
        side: Side,
        by_slot: Mapping[int, _Entry],
        open_calls: Iterable[tuple[int, str, Target]],
        attempt: int,
    ) -> Mapping[tuple[int, str, Target], Mapping[str, int]]:
        callers = {caller.name: caller for caller in side.callers}
        calls: list[dialling.Call] = []
        slots = {}
        for slot, name, target in open_calls:
            call = dialling.Call(callers[name], *target)
            slots[call] = (slot, name, target)
            calls += [call] * by_slot[slot].tries(target, attempt)
        self._random.shuffle(calls)
        answers: dict[tuple[int, str, Target], Counter[str]] = {}
        for call, outcome in dialling.dial(calls, *_ATTEMPTS[attempt]):
            answers.setdefault(slots[call], Counter())[side.normal(outcome)] += 1
        return answers


class _Entry:
    """A case while it runs."""

    def __init__(self, slot: int, case: Case, configuration: Configuration) -> None:
        self.slot = slot
        self.case = case.in_slot(slot)
        self.configuration = configuration
        self.result = Result(self.case, case)
        self.state: tuple[Object, ...] = ()
        self.earlier: tuple[tuple[Object, ...], ...] = ()
        self.targets: set[Target] = set()
        self.applied: dict[tuple[str, str], Object] = {}
        self.listed: tuple[Mapping[Target | str, Listed], Mapping[Target | str, Listed]] = ({}, {})

    def begins(self, number: int) -> bool:
        """Go to a state; tell whether there is one of this number."""
        if number >= len(self.case.states) or self.result.refusal:
            return False
        self.earlier = self.case.states[:number]
        self.state = self.case.states[number]
        self.targets |= cases.targets(self.state)
        return True

    @property
    def situation(self) -> Situation:
        """What rules may know."""
        return Situation(self.state, self.earlier, self.configuration)

    def tries(self, target: Target, attempt: int) -> int:
        """Return how many calls see everybody who may answer; on attempts after the first, surely."""
        most = 1
        for listed in self.listed:
            row = listed.get(target)
            if isinstance(row, tables.VirtualServer):
                most = max(most, len(row.servers), len(row.inside or ()))
        # Callers take turns with each other, so a round for each server is not enough.
        return (2 * min(most, _MOST_TRIES) + 1) * (1 + attempt) if most > 1 else 1


def _by_slot(found: tables.Tables) -> dict[int, dict[Target | str, Listed]]:
    slots: dict[int, dict[Target | str, Listed]] = {}
    for target, row in found.virtual_servers.items():
        slot = tables.slot_of(target)
        if slot is not None:
            slots.setdefault(slot, {})[target] = row
    for address in found.vips:
        slot = tables.slot_of_address(address)
        if slot is not None:
            slots.setdefault(slot, {})[address] = BOUND
    return slots


def _marker(number: int) -> tuple[Object, ...]:
    port, target_port = 1000 + number, 20000 + number
    service = objects.service([{"port": port}], addresses=_MARKER)
    slices = objects.slices("c", [("", target_port)])
    for thing in (service, *slices):
        thing["metadata"]["namespace"] = "default"
    return (service, *slices)


def _shows(side: Side, number: int) -> bool:
    """Tell whether the marker is there, as it is now and not as it was."""
    return all(
        side.real_server_ports(address, 1000 + number) == [20000 + number]
        and side.real_server_ports(address, 1000 + number - 1) is None
        for address in _MARKER
    )


def _wait(condition: Callable[[], bool], limit: float, what: str) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit:g} s: {what}")
        time.sleep(_POLL)


@contextlib.contextmanager
def _timed(what: str) -> Iterator[None]:
    """Say how long something took; pytest shows it with -s, and where a test failed."""
    begin = time.monotonic()
    yield
    print(f"{time.monotonic() - begin:6.2f} s  {what}", flush=True)


def batches(all_cases: Sequence[Case], size: int) -> Iterator[Sequence[Case]]:
    """Yield the cases by so many at a time."""
    for start in range(0, len(all_cases), size):
        yield all_cases[start : start + size]
