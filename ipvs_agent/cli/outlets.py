"""Whom a running agent tells: load balancers, users through Events, and `ipvs-agent status`."""

from __future__ import annotations

import contextlib
import datetime
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from ipvs_agent.config import AgentConfig
from ipvs_agent.config.values import Listen
from ipvs_agent.logs import event
from ipvs_agent.model import HealthCheck, NodeHealth, ObjectName, Service
from ipvs_agent.reconcile.outlets import Outlets
from ipvs_agent.serve import notes
from ipvs_agent.serve.connections import Respond
from ipvs_agent.serve.events import EventSubject, NullRecorder, Recorder
from ipvs_agent.serve.health_checks import HealthChecks
from ipvs_agent.serve.healthz import Healthz
from ipvs_agent.serve.metrics import Metrics
from ipvs_agent.serve.notes import Notes, NotesWriter
from ipvs_agent.serve.servers import Servers, Site

logger = logging.getLogger("ipvs_agent")

UNHEARD = "FailedToStartServiceHealthcheck"
"""The reason of an Event, as kube-proxy's: a health-check node port cannot be listened on."""


class _Part(Protocol):
    def start(self) -> None: ...

    def stop(self) -> None: ...


class RunningOutlets:
    """All that a running agent tells, from threads of their own between `running` and its end."""

    def __init__(self, recorder: Recorder | NullRecorder, config: AgentConfig) -> None:
        self._recorder = recorder
        self._health_of_agent: Callable[[], NodeHealth] = lambda: NodeHealth(is_healthy=False)
        self._servers = Servers()
        self._notes = NotesWriter(Notes(notes.PATH, logger.warning))
        checks = HealthChecks(self._servers, lambda: self._health().is_healthy, self._unheard)
        metrics = Metrics()
        self.outlets = Outlets(checks, self, self._notes, metrics)
        healthz = Healthz(self._health, metrics.count_asked, lambda: datetime.datetime.now(datetime.UTC))
        self._offer("healthz", config.healthz, healthz.respond)
        self._offer("metrics", config.metrics, metrics.respond)

    @contextlib.contextmanager
    def running(self, health: Callable[[], NodeHealth], *others: _Part) -> Iterator[None]:
        """Tell what there is to tell, and have other parts run, for the length of a with block.

        health: whether the agent works.
        """
        self._health_of_agent = health
        recorders = [self._recorder] if isinstance(self._recorder, Recorder) else []
        with started(self._notes, *recorders, self._servers, *others):
            yield

    def warn(self, service: Service, reason: str, note: str, *, near: bool) -> None:
        """Have an Event sent about a Service."""
        self._recorder.post(_subject(service.name, service.uid), reason, note, action="Serve", near=near)

    def _health(self) -> NodeHealth:
        return self._health_of_agent()

    def _offer(self, name: str, listen: Listen, respond: Respond) -> None:
        """Have something of this node answered where the configuration says."""

        def failed(error: OSError) -> None:
            logger.warning(event(f"{name} is not heard", port=listen.port, error=error))

        self._servers.replace({name: Site(listen.port, respond, failed, listen.addresses)})

    def _unheard(self, check: HealthCheck, error: OSError) -> None:
        # Nothing of this node alone, so that it is one Event for all.
        note = f"port {check.port} cannot be listened on: {error.strerror}"
        logger.warning(
            event("health check is not heard", service=check.service, port=check.port, error=error)
        )
        is_near = check.local_endpoints > 0
        self._recorder.post(_subject(check.service, check.uid), UNHEARD, note, action="Listen", near=is_near)


def api_events(kubeconfig: str | None, node_name: str) -> Recorder:
    """Return what sends Events to the API server."""
    # The client of the Kubernetes API takes half a second to import, and an agent on manifests has none.
    from ipvs_agent.sources.api_client import ApiClient  # noqa: PLC0415

    return Recorder(ApiClient(kubeconfig), node_name, logger.warning)


def _subject(name: ObjectName, uid: str) -> EventSubject:
    return EventSubject("Service", name.namespace, name.name, uid)


@contextlib.contextmanager
def started(*parts: _Part) -> Iterator[None]:
    """Have parts run for the length of a with block; they stop together, each within a second."""
    running: list[_Part] = []
    try:
        for part in parts:
            part.start()
            running.append(part)
        yield
    finally:
        # One after another they would together take more than the agent has for its end.
        stops = [threading.Thread(target=part.stop, name="stop", daemon=True) for part in running]
        for stop in stops:
            stop.start()
        for stop in stops:
            stop.join()
