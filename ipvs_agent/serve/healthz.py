"""Whether this node's agent works: what load balancers and the kubelet ask at /healthz and /livez.

As kube-proxy's (KEP-3836): /livez is about the agent alone, and at /healthz a node that is about to go is
unhealthy too, so that load balancers send its new connections elsewhere while those that it has go on.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from http import HTTPStatus

from ipvs_agent.addresses import FAMILY_NAMES
from ipvs_agent.model import NodeHealth
from ipvs_agent.serve import http

HEALTHZ, LIVEZ = "/healthz", "/livez"


class Healthz:
    """The two pages.

    health: asked at each request. asked: told of each request by its page and the status of the answer.
    now: the time, in UTC.
    """

    def __init__(
        self,
        health: Callable[[], NodeHealth],
        asked: Callable[[str, HTTPStatus], None],
        now: Callable[[], datetime.datetime],
    ) -> None:
        self._health = health
        self._asked = asked
        self._now = now

    def respond(self, request: http.Request) -> bytes:
        """Answer a request."""
        if request.path not in (HEALTHZ, LIVEZ):
            return http.not_found(request)
        health = self._health()
        is_wanted = health.is_healthy and (request.path == LIVEZ or health.is_eligible)
        status = HTTPStatus.OK if is_wanted else HTTPStatus.SERVICE_UNAVAILABLE
        self._asked(request.path, status)
        body = self._body(health, request.path)
        return http.answer(request, status, http.JSON, json.dumps(body, separators=(",", ":")).encode())

    def _body(self, health: NodeHealth, path: str) -> dict[str, object]:
        now = self._now()
        updated = _written(now - datetime.timedelta(seconds=health.age))
        eligible = {"nodeEligible": health.is_eligible} if path == HEALTHZ else {}
        of_family = {"lastUpdated": updated, "healthy": health.is_healthy}
        status = {FAMILY_NAMES[family]: of_family for family in sorted(health.families)}
        return {
            "lastUpdated": _written(now) if health.is_healthy else updated,
            "currentTime": _written(now),
            **eligible,
            "healthy": health.is_healthy,
            **({"status": status} if status else {}),
        }


def _written(moment: datetime.datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
