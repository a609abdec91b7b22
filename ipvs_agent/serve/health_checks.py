"""Health-check node ports: what load balancers ask to learn whether a node has endpoints of a Service."""

from __future__ import annotations

import functools
from collections.abc import Callable
from http import HTTPStatus

from ipvs_agent.addresses import UNSPECIFIED, Address
from ipvs_agent.model import HealthCheck, ObjectName
from ipvs_agent.serve import http
from ipvs_agent.serve.servers import Servers, Site

_BODY = """\
{{
	"service": {{
		"namespace": "{namespace}",
		"name": "{name}"
	}},
	"localEndpoints": {count},
	"serviceProxyHealthy": {healthy}
}}"""


def answer(request: http.Request, check: HealthCheck, *, is_healthy: bool) -> bytes:
    """Write what kube-proxy answers: 200 with local endpoints and a healthy proxy, else 503."""
    is_wanted = check.local_endpoints > 0 and is_healthy
    headers = {**http.JSON, "X-Load-Balancing-Endpoint-Weight": str(check.local_endpoints)}
    body = _BODY.format(
        namespace=check.service.namespace,
        name=check.service.name,
        count=check.local_endpoints,
        healthy="true" if is_healthy else "false",
    )
    status = HTTPStatus.OK if is_wanted else HTTPStatus.SERVICE_UNAVAILABLE
    return http.answer(request, status, headers, body.encode())


class HealthChecks:
    """The sites of all Services that have one; to be used by one thread at a time.

    is_healthy: whether the agent does its work; asked at each request, from the thread of the servers.
    failed: told, from that thread, once for each check that could not be listened for; it is tried again.
    """

    def __init__(
        self,
        servers: Servers,
        is_healthy: Callable[[], bool],
        failed: Callable[[HealthCheck, OSError], None],
    ) -> None:
        self._servers = servers
        self._is_healthy = is_healthy
        self._failed = failed
        self._addresses: tuple[Address, ...] = UNSPECIFIED
        self._checks: dict[ObjectName, HealthCheck] = {}

    def publish(self, service: ObjectName, check: HealthCheck | None) -> None:
        """Answer for a Service from now on, or no longer (None)."""
        if check is None:
            self._checks.pop(service, None)
            self._servers.replace({service: None})
        else:
            self._checks[service] = check
            self._servers.replace({service: self._site(check)})

    def listen_on(self, addresses: tuple[Address, ...] | None) -> None:
        """Listen on these addresses, or on all of the node (None), from now on."""
        wanted = UNSPECIFIED if addresses is None else addresses
        if wanted != self._addresses:
            self._addresses = wanted
            self._servers.replace({name: self._site(check) for name, check in self._checks.items()})

    def _site(self, check: HealthCheck) -> Site:
        respond = functools.partial(self._answer, check)
        return Site(check.port, respond, functools.partial(self._failed, check), self._addresses)

    def _answer(self, check: HealthCheck, request: http.Request) -> bytes:
        return answer(request, check, is_healthy=self._is_healthy())
