"""The agent as a process in a namespace of the lab."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent.parent


class Agent:
    """A running agent; use as a context manager."""

    def __init__(
        self,
        namespace: str,
        manifests: Path | None,
        config: Path | None = None,
        *,
        node_name: str = "node-a",
        arguments: Sequence[str] = (),
        log: Path | None = None,
    ) -> None:
        self._namespace = namespace
        self._arguments = ["run", "--node-name", node_name, *arguments]
        if manifests is not None:
            self._arguments += ["--manifests", str(manifests)]
        if config is not None:
            self._arguments += ["--config", str(config)]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Agent:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self.end()

    def start(self) -> None:
        """Start the process."""
        output = self._log.open("ab") if self._log is not None else None
        try:
            self._process = subprocess.Popen(
                self._command(self._arguments), stderr=output, stdin=subprocess.DEVNULL, cwd=ROOT
            )
        finally:
            if output is not None:
                output.close()

    def end(self, number: int = signal.SIGTERM, timeout: float = 60.0) -> float:
        """Send a signal and wait for the end of the process; return how many seconds it took."""
        assert self._process is not None
        started = time.monotonic()
        self._process.send_signal(number)
        self._process.wait(timeout)
        self._process = None
        return time.monotonic() - started

    def run_once(self) -> subprocess.CompletedProcess[str]:
        """Run one sync in a process of its own."""
        return subprocess.run(
            self._command([*self._arguments, "--once"]), capture_output=True, text=True, cwd=ROOT, check=False
        )

    def command(self, *arguments: str) -> str:
        """Return what a subcommand prints; raise CalledProcessError where it fails."""
        done = subprocess.run(
            self._command(arguments), stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
        )
        return done.stdout

    def wait_for(self, attempt: Callable[[], T], timeout: float = 120.0) -> T:
        """Return what an attempt returns, as soon as no assertion, request or command fails in it."""
        deadline = time.monotonic() + timeout
        while True:
            if self._process is not None and self._process.poll() is not None:
                raise RuntimeError(f"the agent ended with status {self._process.returncode}")
            try:
                return attempt()
            except (OSError, AssertionError, subprocess.CalledProcessError):
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    @property
    def is_running(self) -> bool:
        """Whether the process was started and has not been ended."""
        return self._process is not None

    def _command(self, arguments: Sequence[str]) -> list[str]:
        # `ip netns exec` replaces itself by the command, so signals reach the agent.
        return ["ip", "netns", "exec", self._namespace, sys.executable, "-m", "ipvs_agent", *arguments]
