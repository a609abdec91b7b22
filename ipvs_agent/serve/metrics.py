"""What those find who watch many nodes, in kube-proxy's words where it has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING

from ipvs_agent.addresses import FAMILY_NAMES, Family
from ipvs_agent.model import TrafficPolicy
from ipvs_agent.serve import http
from ipvs_agent.serve.healthz import HEALTHZ, LIVEZ

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

_PAGES = {HEALTHZ: "kubeproxy_proxy_healthz", LIVEZ: "kubeproxy_proxy_livez"}


class Metrics:
    """Figures, each set by one thread, and the pages of kube-proxy's metrics server."""

    def __init__(self) -> None:
        self._not_local: dict[tuple[TrafficPolicy, Family], int] = {
            (policy, family): 0 for policy in TrafficPolicy for family in Family
        }
        self._asked: Counter[tuple[str, HTTPStatus]] = Counter()
        self._registry: CollectorRegistry | None = None

    def count_not_local(self, policy: TrafficPolicy, family: Family, count: int) -> None:
        """Say how many Services have a policy Local, and all of their endpoints on other nodes."""
        self._not_local[policy, family] = count

    def count_asked(self, page: str, status: HTTPStatus) -> None:
        """Count a request for a page of the node's health; called by the thread of the servers alone."""
        self._asked[page, status] += 1

    def respond(self, request: http.Request) -> bytes:
        """Answer a request."""
        match request.path:
            case "/metrics":
                return self._metrics(request)
            case "/healthz":
                return http.text(request, HTTPStatus.OK, "ok")
            case "/proxyMode":
                return http.text(request, HTTPStatus.OK, "ipvs")
            case _:
                return http.not_found(request)

    def collect(self) -> Iterator[Metric]:
        """Yield all figures; asked by the registry."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

        not_local = GaugeMetricFamily(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            "Services with a Local traffic policy whose endpoints are all on other nodes",
            labels=("traffic_policy", "ip_family"),
        )
        for (policy, family), count in self._not_local.items():
            not_local.add_metric((policy.value, FAMILY_NAMES[family]), count)
        yield not_local
        for page, name in _PAGES.items():
            asked = CounterMetricFamily(
                name, f"Requests of {page} by the status of the answer", labels=["code"]
            )
            for (of_page, status), count in self._asked.items():
                if of_page == page:
                    asked.add_metric([str(status.value)], count)
            yield asked

    def _metrics(self, request: http.Request) -> bytes:
        try:
            # At the first scrape, for it takes longer than all else that a start imports.
            import prometheus_client  # noqa: PLC0415
        except (ImportError, OSError) as error:
            return http.text(request, HTTPStatus.INTERNAL_SERVER_ERROR, f"prometheus-client: {error}\n")
        if self._registry is None:
            self._registry = prometheus_client.CollectorRegistry()
            self._registry.register(self)
            prometheus_client.ProcessCollector(registry=self._registry)
        headers = {"Content-Type": prometheus_client.CONTENT_TYPE_LATEST}
        return http.answer(request, HTTPStatus.OK, headers, prometheus_client.generate_latest(self._registry))
