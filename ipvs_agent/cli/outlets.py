"""Whom a running agent tells: load balancers, users through Events, and `ipvs-agent status`."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from ipvs_agent.logs import event
from ipvs_agent.model import HealthCheck, ObjectName, Service
from ipvs_agent.reconcile.outlets import Outlets
from ipvs_agent.serve import notes
from ipvs_agent.serve.events import EventSubject, NullRecorder, Recorder
from ipvs_agent.serve.health import HealthServers
from ipvs_agent.serve.notes import Notes, NotesWriter

logger = logging.getLogger("ipvs_agent")

UNHEARD = "FailedToStartServiceHealthcheck"
"""The reason of an Event, as kube-proxy's: a health-check node port cannot be listened on."""


class _Part(Protocol):
    def start(self) -> None: ...

    def stop(self) -> None: ...


class RunningOutlets:
    """All that a running agent tells, from threads of their own between `running` and its end."""

    def __init__(self, recorder: Recorder | NullRecorder) -> None:
        self._recorder = recorder
        self._agent_is_healthy: Callable[[], bool] = bool
        self._health = HealthServers(self._is_healthy, self._unheard)
        self._notes = NotesWriter(Notes(notes.PATH, logger.warning))
        self.outlets = Outlets(self._health, self, self._notes)

    @contextlib.contextmanager
    def running(self, is_healthy: Callable[[], bool], *others: _Part) -> Iterator[None]:
        """Tell what there is to tell, and have other parts run, for the length of a with block.

        is_healthy: whether the agent works.
        """
        self._agent_is_healthy = is_healthy
        recorders = [self._recorder] if isinstance(self._recorder, Recorder) else []
        with started(self._notes, *recorders, self._health, *others):
            yield

    def warn(self, service: Service, reason: str, note: str, *, near: bool) -> None:
        """Have an Event sent about a Service."""
        self._recorder.post(_subject(service.name, service.uid), reason, note, action="Serve", near=near)

    def _is_healthy(self) -> bool:
        return self._agent_is_healthy()

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
