"""Findings as people read them."""

from __future__ import annotations

from collections.abc import Sequence

from ipvs_agent.check.facts import Finding


def render(findings: Sequence[Finding], node: str) -> str:
    """Return a line for each finding, with the mend below it."""
    if not findings:
        return f"{node}: nothing is wrong\n"
    return "".join(
        f"{finding.level.value}: {finding.subject}: {finding.what}\n    {finding.mend}\n"
        for finding in findings
    )
