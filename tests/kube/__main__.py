"""The API server by hand.

    python -m tests.kube build              build all programs, and print where they are
    python -m tests.kube serve              run it on loopback until stopped, and print how to use it
    python -m tests.kube run -- COMMAND     run a command in tools.vm with the server beside it

What runs beside the server finds in its environment KUBECONFIG (that of an administrator),
IPVS_AGENT_KUBECONFIG (that of the agent's ServiceAccount) and IPVS_AGENT_KUBE_CONTROL (see control.py).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.kube import build
from tests.kube.control import PORT, Control
from tests.kube.server import ADMIN, AGENT, ApiServer, ServerError, die_with_parent

BESIDE_VM = "198.18.0.1"
"""The address of tap0 in the namespace; tools.vm gives the VM 198.18.0.2, and it may give itself more."""
READY = "ready"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="tests.kube", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build")
    serve = commands.add_parser("serve")
    serve.add_argument("--address", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=0, help="0 (default): a free one")
    serve.add_argument("--folder", type=Path, default=Path.cwd(), help="where to write the kubeconfigs")
    commands.add_parser("run", usage="python -m tests.kube run [OPTION OF tools.vm...] -- COMMAND...")
    arguments = sys.argv[1:] if arguments is None else arguments
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options, vm_options = parser.parse_known_args(arguments[:end])
    if options.command != "run" and (vm_options or arguments[end:]):
        parser.error(f"{options.command} does not take {' '.join([*vm_options, *arguments[end:]])}")
    # So that `with` blocks end in order when a shell or a CI run ends us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        match options.command:
            case "build":
                for path in (*_programs(), build.program("kube-proxy")):
                    print(path)
                return 0
            case "serve":
                return _serve(options.address, options.port, options.folder)
            case _:
                return _run([*vm_options, *arguments[end:]])
    except (build.BuildError, ServerError) as error:
        print(f"tests.kube: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _serve(address: str, port: int, folder: Path) -> int:
    with ApiServer(address, port) as server, Control(address, server) as control:
        for user, path in _kubeconfigs(folder).items():
            path.write_text(json.dumps(server.kubeconfig(user)))
        for name, value in _environment(address, folder).items():
            print(f"export {name}={value}")
        print(READY, flush=True)
        control.serve_forever()
    return 0


def _run(rest: Sequence[str]) -> int:
    _programs()
    namespace = f"kube-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="ipvs-agent-kube-") as folder, _namespace(namespace):
        inside = ["ip", "netns", "exec", namespace, sys.executable, "-m", "tests.kube", "serve"]
        options = [f"--address={BESIDE_VM}", "--port=6443", f"--folder={folder}"]
        with _started([*inside, *options]):
            environment = _environment(BESIDE_VM, Path(folder))
            names = [f"--env={name}" for name in environment]
            vm = [sys.executable, "-m", "tools.vm", f"--network={namespace}", *names, *rest]
            return subprocess.run(vm, env=os.environ | environment, check=False).returncode


def _programs() -> tuple[Path, ...]:
    """Return what a server needs, built if need be."""
    return build.etcd(watch_list=True)[0], build.program("kube-apiserver")


def _kubeconfigs(folder: Path) -> Mapping[str, Path]:
    return {ADMIN: folder / "admin.kubeconfig", AGENT: folder / "agent.kubeconfig"}


def _environment(address: str, folder: Path) -> dict[str, str]:
    paths = _kubeconfigs(folder)
    return {
        "KUBECONFIG": str(paths[ADMIN]),
        "IPVS_AGENT_KUBECONFIG": str(paths[AGENT]),
        "IPVS_AGENT_KUBE_CONTROL": f"http://{address}:{PORT}",
    }


@contextlib.contextmanager
def _namespace(name: str) -> Iterator[None]:
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for command in (
            "link set lo up",
            "tuntap add tap0 mode tap",
            f"address add {BESIDE_VM}/24 dev tap0",
            "link set tap0 up",
        ):
            subprocess.run(["ip", "-n", name, *command.split()], check=True)
        yield
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@contextlib.contextmanager
def _started(command: Sequence[str]) -> Iterator[None]:
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, and it takes no lock
    ) as process:
        try:
            assert process.stdout is not None
            if not any(line.strip() == READY for line in process.stdout):
                raise ServerError("the server ended before it was ready")
            yield
        finally:
            process.terminate()


if __name__ == "__main__":
    sys.exit(main())
