"""ipvs-agent explain: how this node serves a Service, and why."""

from __future__ import annotations

import argparse
import contextlib
import queue
import sys
from collections.abc import Sequence

from ipvs_agent.addresses import Family
from ipvs_agent.cli import configuration, wiring
from ipvs_agent.config import AgentConfig, node_name
from ipvs_agent.desired.compile import NodeView, compile_service
from ipvs_agent.errors import AgentError, SourceError
from ipvs_agent.explain import text
from ipvs_agent.kernel.node import NodeKernel
from ipvs_agent.model import ObjectName, Service
from ipvs_agent.reconcile import audit
from ipvs_agent.reconcile.foundation import Ground
from ipvs_agent.reconcile.marks import Marks
from ipvs_agent.reconcile.settings import Settings, needs_now, node_view
from ipvs_agent.schedulers import SCHEDULERS
from ipvs_agent.serve import notes as notes_file
from ipvs_agent.sources.changes import Change, Rejected, Remark, Trouble
from ipvs_agent.sources.store import Store

_PATIENCE = 30.0
"""Seconds to wait for a source's next word."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "explain",
        help="say how this node serves a Service, and why",
        description="Say how this node serves a Service: by which addresses, with which scheduler and what"
        " else its annotations ask for, and why each endpoint is in or out. Reads the same objects and"
        " configuration as run, changes nothing and needs no rights. Does not see rules of others that"
        " change packet marks, because of which the agent may serve externalTrafficPolicy: Local otherwise:"
        " check tells where there are such rules.",
    )
    parser.add_argument("service", type=_service, metavar="NAMESPACE/NAME[:PORT]")
    configuration.add_options(parser)
    wiring.add_source_options(parser)
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the explanation and return the exit status; 1 where there is no such Service."""
    name, port_name = arguments.service
    config, _ = configuration.read(arguments)
    settings = wiring.settings(config, node_name(arguments.node_name, config))
    store = _read(arguments, config, settings, name)
    service = store.services.get(name)
    if service is None:
        raise SourceError(
            f"no Service {name} asks anything of a node: there is none of that name, or it is headless, or of"
            " type ExternalName, or another proxy's by its label service.kubernetes.io/service-proxy-name"
        )
    if port_name is not None and port_name not in {port.name for port in service.ports}:
        names = (
            ", ".join(dict.fromkeys(port.name for port in service.ports if port.name)) or "none with a name"
        )
        raise SourceError(f"Service {name} has no port {port_name!r}; its ports: {names}")
    sys.stdout.write(_explain(service, store, settings, port_name))
    return 0


def _explain(service: Service, store: Store, settings: Settings, port_name: str | None) -> str:
    with contextlib.closing(NodeKernel()) as kernel:
        view = _view(kernel, store, settings)
    marks = Marks(lambda _: False, lambda _: None).of(service, view)
    slices = store.slices(service.name)
    plan = compile_service(service, slices, view, marks)
    return text.render(service, slices, plan, marks, view, port_name=port_name, notes=_notes(service.name))


def _view(kernel: NodeKernel, store: Store, settings: Settings) -> NodeView:
    needs = needs_now(settings, store.node)
    masquerade = needs.masquerade if needs is not None else None
    undivided = frozenset(family for family in Family if masquerade is None or not masquerade.inside(family))
    ground = Ground(frozenset(Family) - kernel.iptables.switched_off(), undivided=undivided)
    own = audit.read_node_addresses(kernel)
    missing = frozenset(each.name for each in SCHEDULERS.values() if not kernel.modules.may_have(each.module))
    return node_view(settings, ground, own, store.node, store.api_servers, missing)


def _read(
    arguments: argparse.Namespace, config: AgentConfig, settings: Settings, wanted: ObjectName
) -> Store:
    """Return what the source says, once it has said all; SourceError where it cannot."""
    store = Store(settings.node_name)
    inbox: queue.SimpleQueue[Sequence[Change]] = queue.SimpleQueue()
    source = wiring.source(arguments, config, settings.node_name, inbox.put)
    source.start()
    try:
        while not store.complete:
            for change in inbox.get(timeout=_PATIENCE):
                if isinstance(change, Remark):
                    continue
                if isinstance(change, Trouble):
                    if change.message:
                        raise SourceError(f"{change.source}: {change.message}")
                    continue
                if isinstance(change, Rejected) and change.name == wanted:
                    raise SourceError(
                        f"{change.skipped.subject}: {change.skipped.field}: {change.skipped.reason}"
                    )
                store.apply(change)
    except queue.Empty:
        raise SourceError(f"the source has said nothing for {_PATIENCE:g} s") from None
    finally:
        source.stop()
    return store


def _notes(name: ObjectName) -> tuple[str, ...]:
    """Return what the agent that runs here says of a Service; nothing where none runs."""
    try:
        return notes_file.read(notes_file.PATH).get(name, ())
    except AgentError:
        return ()


def _service(argument: str) -> tuple[ObjectName, str | None]:
    """Parse NAMESPACE/NAME[:PORT]."""
    text, colon, port_name = argument.partition(":")
    namespace, _, name = text.partition("/")
    if not (namespace and name) or "/" in name or (colon and not port_name):
        raise argparse.ArgumentTypeError(f"{argument!r} is not NAMESPACE/NAME or NAMESPACE/NAME:PORT")
    return ObjectName(namespace, name), port_name if colon else None
