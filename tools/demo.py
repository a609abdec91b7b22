"""The demo: an agent that balances real traffic between namespaces; run it by `make demo`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tools.lab import files, talk
from tools.lab.agent import Agent
from tools.lab.asking import Asking
from tools.lab.network import Host, Lab

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
_REQUESTS = 30
_SHOWN = 5
_PATIENCE = 60.0
# The source that pods see where node-a masquerades: its address on the way to its own pods a and b, and to c.
_MASQUERADED = {"a": "10.244.1.1", "b": "10.244.1.1", "c": "192.0.2.1"}
_MASQUERADED6 = {"a": "fd00:10:244:1::1", "b": "fd00:10:244:1::1", "c": "2001:db8::1"}


def main() -> int:
    """Show the agent at work; return 0 if everything went as it should."""
    print("Building node-a with two pods, node-b with one, and a client (see tools/lab/network.py)")
    with tempfile.TemporaryDirectory() as folder, Lab() as lab:
        manifests = Path(folder) / "manifests"
        shutil.copytree(EXAMPLES / "manifests", manifests)
        for pod in lab.pods:
            lab.serve(pod, talk.TCP, 8080)
            lab.serve(pod, talk.TCP, 5353)
            lab.serve(pod, talk.UDP, 5353)
        print("Starting ipvs-agent on node-a with examples/manifests and kube-proxy's configuration file\n")
        questions = _questions(lab)
        with Agent(lab.node.namespace, manifests, EXAMPLES / "kube-proxy.yaml") as agent:
            for vip in ("10.96.0.80", "fd00:10:96::80"):
                agent.wait_for(partial(talk.ask, lab.a.namespace, talk.TCP, vip, 80))
            print(f"{'client':<8} {'address':<26} {'answers by pod':<24} source address that the pods saw")
            is_right = [_show(question) for question in questions]
            is_right.append(_show_rolling_change(lab, manifests))
            print("$ ipvs-agent status")
            print(agent.command("status"))
        print("The agent has ended; the kernel goes on serving:")
        is_right.append(_show(questions[0]))
        removed = agent.command("cleanup").splitlines()
        print("\n$ ipvs-agent cleanup", *removed[:_SHOWN], sep="\n")
        if len(removed) > _SHOWN:
            print(f"... and {len(removed) - _SHOWN} more lines")
    return 0 if all(is_right) else 1


class _Question(NamedTuple):
    """What is asked, and what is to be answered."""

    client: Host
    protocol: str
    address: str
    port: int
    sources: dict[str, str]
    """The pods that answer, and the source address that each sees."""
    is_sticky: bool = False
    """One pod answers all; else all answer equally often."""

    def is_answered_by(self, answers: list[talk.Answer]) -> bool:
        """Tell whether the right pods have answered, and saw the right source."""
        counts = Counter(answer.name for answer in answers)
        equal = dict.fromkeys(self.sources, len(answers) // len(self.sources))
        is_balanced = len(counts) == 1 if self.is_sticky else counts == equal
        return is_balanced and all(self.sources.get(answer.name) == answer.source for answer in answers)


def _questions(lab: Lab) -> list[_Question]:
    # A pod keeps its address, but where it is balanced to itself.
    of_a = {"a": "10.244.1.1", "b": lab.a.ipv4, "c": lab.a.ipv4}
    of_a6 = {"a": "fd00:10:244:1::1", "b": lab.a.ipv6, "c": lab.a.ipv6}
    of_b = {"a": lab.b.ipv4, "c": lab.b.ipv4}
    return [
        _Question(lab.client, talk.TCP, "10.96.0.80", 80, _MASQUERADED),
        _Question(lab.client, talk.TCP, "fd00:10:96::80", 80, _MASQUERADED6),
        _Question(lab.client, talk.TCP, lab.node.ipv4, 30080, _MASQUERADED),
        _Question(lab.a, talk.TCP, "10.96.0.80", 80, of_a),
        _Question(lab.a, talk.TCP, "fd00:10:96::80", 80, of_a6),
        _Question(lab.node, talk.TCP, "10.96.0.80", 80, _MASQUERADED),
        _Question(lab.b, talk.UDP, "10.96.0.10", 53, of_b, is_sticky=True),
    ]


def _show(question: _Question) -> bool:
    """Ask and print who answered; return whether it is as expected."""
    client, protocol, address, port = question[:4]
    answers = [talk.ask(client.namespace, protocol, address, port) for _ in range(_REQUESTS)]
    pods = Counter(answer.name for answer in answers)
    by_pod = " ".join(f"{name}:{count}" for name, count in sorted(pods.items()))
    sources = ", ".join(sorted({answer.source for answer in answers}))
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    print(f"{client.name:<8} {protocol + ' ' + where:<26} {by_pod:<24} {sources}")
    is_right = question.is_answered_by(answers)
    if not is_right:
        how = "one" if question.is_sticky else "all, equally often"
        print(f"  WRONG: expected {how} of the pods, which see {question.sources}")
    return is_right


def _show_rolling_change(lab: Lab, manifests: Path) -> bool:
    """Change the manifest under load; return whether no request was lost."""
    print("\nA client asks 10.96.0.80:80 without pause, while pod b is taken out and put back")
    asking = Asking(lab.client, "10.96.0.80")
    whole = (manifests / "web.yaml").read_text()
    without_b = "\n".join(line for line in whole.splitlines() if "10.244.1.12" not in line) + "\n"
    _show_recent("as it was", asking)
    files.replace(manifests / "web.yaml", without_b)
    _wait_until(lambda: "b" not in _recent(asking))
    _show_recent("b taken out", asking)
    files.replace(manifests / "web.yaml", whole)
    _wait_until(lambda: "b" in _recent(asking))
    _show_recent("b put back", asking)
    asking.end()
    print(f"  {len(asking.pods)} requests answered, {len(asking.failures)} lost\n")
    return not asking.failures


def _show_recent(title: str, asking: Asking) -> None:
    pods = sorted(_recent(asking).items())
    print(f"  {title:<12} answers by pod: " + " ".join(f"{pod}:{count}" for pod, count in pods))


def _recent(asking: Asking) -> Counter[str]:
    """Return the answers of the next half second."""
    before = len(asking.pods)
    time.sleep(0.5)
    return Counter(asking.pods[before:])


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the agent did not follow the change of the manifest within {_PATIENCE} s")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        sys.exit(f"demo: {error}")
