"""A failed case as text: its objects, and the lines in which the sides differ."""

from __future__ import annotations

import json

from tests.conformance.arena import Result


def text(result: Result) -> str:
    """Return the objects and differences of a case."""
    what = result.refusal or "both sides differ, and no rule in differences.py says why"
    lines = [f"case {result.case.name}: {what}"]
    for number, state in enumerate(result.case.states):
        lines.append(f"state {number}:")
        lines += [json.dumps(thing) for thing in state]
        lines += [f"  {difference}" for seen, difference in result.differences if seen == number]
    return "\n".join(lines)
