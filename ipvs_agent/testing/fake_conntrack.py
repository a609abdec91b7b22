"""The connection tracking table, in memory."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ipvs_agent.addresses import Address, Family, family_of
from ipvs_agent.kernel.api import FlowMatch


class FakeFlow(msgspec.Struct, frozen=True):
    """A tracked flow."""

    protocol: int
    destination: Address
    destination_port: int
    reply_source: Address
    is_led_by_nat: bool = False
    """Whether NAT, and not IPVS, has led it to who answers."""

    @property
    def family(self) -> Family:
        """Return the family of its addresses."""
        return family_of(self.destination)


class FakeConntrack:
    """Flows; none at first."""

    def __init__(self) -> None:
        self.flows: list[FakeFlow] = []

    def delete(self, matches: Iterable[FlowMatch]) -> int:
        """Delete the flows that match any of the given ones; return how many there were."""
        wanted = list(matches)
        kept = [flow for flow in self.flows if not any(_matches(match, flow) for match in wanted)]
        count = len(self.flows) - len(kept)
        self.flows = kept
        return count


def _matches(match: FlowMatch, flow: FakeFlow) -> bool:
    return (
        (match.family, match.protocol) == (flow.family, flow.protocol)
        and match.destination in (None, flow.destination)
        and match.destination_port in (0, flow.destination_port)
        and match.reply_source in (None, flow.reply_source)
        and (flow.is_led_by_nat or flow.reply_source not in match.spared)
    )
