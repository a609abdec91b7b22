"""ipvs-agent run: serve the node's Services until told to end."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
import threading
import time

from ipvs_agent import __version__, logs
from ipvs_agent.cli import configuration, wiring
from ipvs_agent.config import AgentConfig, node_name, remarks
from ipvs_agent.kernel.node import NodeKernel
from ipvs_agent.reconcile.messages import AddressesChanged, AddressGone, LinkLost
from ipvs_agent.reconcile.reconciler import Reconciler
from ipvs_agent.reconcile.settings import Settings
from ipvs_agent.reconcile.worker import ThreadWorker

logger = logging.getLogger("ipvs_agent")

_LOADING = 1_000_000
"""What a start loads mostly stays: the garbage collector looks at it when so many objects more have come."""
_YIELD = 0.0005
"""Seconds after which a busy thread lets another one run: the loop must not wait for an audit's worker."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "run",
        help="serve the node's Services",
        description="Serve the Services of a Kubernetes cluster, or of manifests, on this node.",
    )
    configuration.add_options(parser)
    wiring.add_source_options(parser)
    parser.add_argument("--once", action="store_true", help="one sync; status 0 when all was achieved")
    parser.add_argument("-v", "--verbose", action="store_true", help="a log line for each operation")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the agent; return the exit status."""
    tune_interpreter()
    logs.set_up(verbose=arguments.verbose)
    config, without_effect = configuration.read(arguments)
    name = node_name(arguments.node_name, config)
    settings = wiring.settings(config, name)
    logger.info(logs.event("starting", version=__version__, node=name))
    if without_effect:
        fields = ",".join(without_effect)
        logger.info(logs.event("configuration fields without effect", file=arguments.config, fields=fields))
    for remark in remarks(config):
        logger.warning(remark)

    threading.excepthook = _end_process
    kernel = NodeKernel()
    kernel.modules.try_to_load("ip_vs", settings.needs.scheduler_module)
    kernel.ipvs.info()  # a kernel without IPVS ends the agent before it changes anything
    if arguments.once:
        return _run_once(arguments, config, settings, kernel)
    _run_on(arguments, config, settings, kernel)
    logger.info("ended, the kernel goes on serving")
    return 0


def tune_interpreter() -> None:
    """Have the interpreter suit an agent that starts; what it is to do later is the reconciler's business."""
    gc.set_threshold(_LOADING)
    sys.setswitchinterval(_YIELD)


def _run_once(
    arguments: argparse.Namespace, config: AgentConfig, settings: Settings, kernel: NodeKernel
) -> int:
    reconciler = Reconciler(kernel, NodeKernel(), ThreadWorker(), settings, time.monotonic)
    _stop_on_signals(reconciler)
    source = wiring.source(arguments, config, settings.node_name, reconciler.tell)
    source.start()
    try:
        return 0 if reconciler.run_once() else 1
    finally:
        source.stop()


def _run_on(
    arguments: argparse.Namespace, config: AgentConfig, settings: Settings, kernel: NodeKernel
) -> None:
    # A single sync tells nobody and follows nothing, so it need not wait for these.
    from ipvs_agent.cli.outlets import RunningOutlets, api_events  # noqa: PLC0415
    from ipvs_agent.kernel.address_events import AddressEvents  # noqa: PLC0415
    from ipvs_agent.serve.events import NullRecorder  # noqa: PLC0415

    has_server = arguments.manifests is None
    events = (
        api_events(wiring.kubeconfig(arguments, config), settings.node_name) if has_server else NullRecorder()
    )
    told = RunningOutlets(events, config)
    reconciler = Reconciler(kernel, NodeKernel(), ThreadWorker(), settings, time.monotonic, told.outlets)
    _stop_on_signals(reconciler)
    addresses = AddressEvents(
        lambda: reconciler.tell(AddressesChanged()),
        lambda address: reconciler.tell(AddressGone(address)),
        lambda: reconciler.tell(LinkLost()),
    )
    source = wiring.source(arguments, config, settings.node_name, reconciler.tell)
    with told.running(reconciler.health, addresses, source):
        reconciler.run()


def _stop_on_signals(reconciler: Reconciler) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: reconciler.stop())


def _end_process(fault: threading.ExceptHookArgs) -> None:
    """End the process for a fault of ours in any thread.

    The kernel goes on serving, and whoever started the agent starts it again; an agent without one of its
    threads would look alive and follow nothing.
    """
    trace = (fault.exc_type, fault.exc_value or fault.exc_type(), fault.exc_traceback)
    logger.critical(
        "a fault in the thread %s ends the agent", fault.thread and fault.thread.name, exc_info=trace
    )
    os._exit(1)
