"""The agent on a real kube-apiserver: what is created, changed and deleted there is what the packets do.

The server is beside the machine, reached over eth9, which the node of the lab gets; it can be killed and
started again.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests import objects
from tests.kube import control
from tests.kube.client import Client
from tools.lab import talk
from tools.lab.agent import ROOT, Agent
from tools.lab.asking import Asking

VIP, VIP6 = "10.96.0.80", "fd00:10:96::80"
ALL = {"a", "b", "c"}
CONTROL = os.environ.get("IPVS_AGENT_KUBE_CONTROL", "")


@pytest.fixture(scope="module")
def api(lab):
    """Requests to the server, from the lab's node."""
    assert CONTROL, "there is no API server: run this by `python -m tests.kube run -- COMMAND`"
    name = lab.node.namespace
    for command in (
        f"ip link set eth9 netns {name}",
        f"ip -n {name} addr add 198.18.0.2/30 dev eth9",
        f"ip -n {name} link set eth9 up",
    ):
        subprocess.run(command.split(), check=True)
    api = Api(name)
    for manifest in ("serviceaccount.yaml", "rbac.yaml"):
        for thing in yaml.safe_load_all((ROOT / "deploy" / manifest).read_text()):
            api.create(thing)
    yield api
    subprocess.run(["ip", "-n", name, "link", "set", "eth9", "netns", "1"], check=True)


class Api:
    """An administrator's requests, and the server's power switch."""

    def __init__(self, namespace):
        self._namespace = namespace

    def _client(self):
        config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        return Client(cluster["server"], user["token"], Path(cluster["certificate-authority"]))

    def __getattr__(self, verb):
        def request(*arguments):
            with talk.inside(self._namespace), self._client() as client:
                return getattr(client, verb)(*arguments)

        return request

    def switch(self, action):
        with talk.inside(self._namespace):
            control.ask(CONTROL, action)


@pytest.fixture
def node(node, lab, api):
    """A node whose agent watches the server."""
    kubeconfig = os.environ["IPVS_AGENT_KUBECONFIG"]
    arguments = ("--kubeconfig", kubeconfig)
    node.agent = Agent(lab.node.namespace, None, node.config, arguments=arguments, log=node.log)
    return node


def web_slices(lab, pods):
    return [
        objects.endpoint_slice("web", [pod.ipv4 for pod in pods], namespace="default", suffix="4"),
        objects.endpoint_slice("web", [pod.ipv6 for pod in pods], namespace="default", suffix="6"),
    ]


@pytest.mark.timeout(600)
def test_create_change_outage_and_delete(node, lab, api, agent_log, in_background):
    service = objects.service(
        "web",
        (VIP, VIP6),
        ((80, "TCP", 30080),),
        namespace="default",
        type="NodePort",
        ipFamilyPolicy="RequireDualStack",
    )
    service["metadata"] = {"name": "web", "namespace": "default"}
    node.agent.start()
    node.wait_for(lambda: "serving" in agent_log())

    api.create(service)
    for one in web_slices(lab, lab.pods):
        api.create(one)
    asked = [(lab.client, VIP), (lab.client, VIP6), (lab.a, VIP), (lab.client, lab.node.ipv4, 30080)]
    for client, address, *port in asked:
        node.wait_for(lambda c=client, a=address, p=port: node.pods(ALL, c, a, *p) == ALL)

    asking = [in_background(Asking(*where)) for where in ((lab.client, VIP), (lab.a, VIP6))]
    for one in web_slices(lab, lab.pods[:2]):
        api.patch(one, {"endpoints": one["endpoints"]})
    node.wait_for(lambda: node.pods({"a", "b"}, lab.client, VIP) == {"a", "b"})

    before = agent_log().count("source fails")
    api.switch("kill")
    node.wait_for(lambda: agent_log().count("source fails") > before)
    assert {"a", "b"} == node.pods({"a", "b"}, lab.client, VIP)
    api.switch("start")
    for one in web_slices(lab, lab.pods):
        api.patch(one, {"endpoints": one["endpoints"]})
    node.wait_for(lambda: node.pods(ALL, lab.client, VIP) == ALL)
    for one in asking:
        one.end()
    assert [[], []] == [one.failures for one in asking]

    api.patch(service, {"spec": {"ports": [service["spec"]["ports"][0] | {"port": 81, "nodePort": 30081}]}})
    changed = [(lab.client, VIP, 81), (lab.a, VIP6, 81), (lab.client, lab.node.ipv4, 30081)]
    for client, address, port in changed:
        node.wait_for(lambda c=client, a=address, p=port: node.pods(ALL, c, a, p) == ALL)
    gone = (f"{VIP}:80 ", ":30080 ")
    node.wait_for(lambda: not [line for line in node.virtual_servers() if any(one in line for one in gone)])

    api.delete(service)
    for one in web_slices(lab, lab.pods):
        api.delete(one)
    node.wait_for(lambda: not [line for line in node.virtual_servers() if VIP in line])
    with pytest.raises(OSError, match=r"refused|timed out|unreachable"):
        node.ask(lab.client, talk.TCP, VIP, 80, timeout=1)


@pytest.fixture
def neighbour(node, lab, tmp_path):
    """The log of an agent on another node, which reaches the server through the first one."""
    rule = ("POSTROUTING", "-o", "eth9", "-j", "MASQUERADE")
    node.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    node.run("iptables", "-t", "nat", "-A", *rule)
    node.run("ip", "-n", lab.node_b.namespace, "route", "add", "198.18.0.0/30", "via", lab.node.ipv4)
    log = tmp_path / "log-of-neighbour"
    arguments = ("--kubeconfig", os.environ["IPVS_AGENT_KUBECONFIG"])
    agent = Agent(lab.node_b.namespace, None, node.config, node_name="node-b", arguments=arguments, log=log)
    with agent:
        yield log
    print(log.read_text())
    agent.command("cleanup")
    node.run("ip", "-n", lab.node_b.namespace, "route", "del", "198.18.0.0/30")
    node.run("iptables", "-t", "nat", "-D", *rule)


@pytest.mark.timeout(600)
def test_an_annotation_that_makes_no_sense_is_one_event_of_all_agents(node, lab, api, agent_log, neighbour):
    web = objects.service("web", (VIP,), namespace="default")
    annotations = {"ipvs-agent.io/scheduler": "wr"}
    web["metadata"] = {"name": "web", "namespace": "default", "annotations": annotations}
    # Each has an endpoint, so that none waits for others to speak first.
    both = [(lab.a.ipv4, {"nodeName": "node-a"}), (lab.b.ipv4, {"nodeName": "node-b"})]
    behind = objects.endpoint_slice("web", both, namespace="default")
    node.agent.start()
    node.wait_for(lambda: " serving " in agent_log() and " serving " in neighbour.read_text())
    for thing in (behind, web):
        api.create(thing)
    text = "metadata.annotations[ipvs-agent.io/scheduler]: 'wr' is not a scheduler; did you mean wrr?"
    node.wait_for(lambda: text in agent_log())
    node.wait_for(lambda: text in neighbour.read_text())

    def told():
        events = api.get("/apis/events.k8s.io/v1/namespaces/default/events")["items"]
        # The API server tells of Services, too, when it repairs their addresses.
        ours = [one for one in events if one["reportingController"] == "ipvs-agent"]
        return [
            (one["type"], one["reason"], one["note"]) for one in ours if one["regarding"]["name"] == "web"
        ]

    node.wait_for(lambda: told() != [])
    time.sleep(5)  # time for another one
    assert [("Warning", "Invalid", text)] == told()
    assert f"default/web: {text}" in node.agent.command("status", "-o", "wide")
    assert f"-A -t {VIP}:80 -s rr" in node.virtual_servers()
    api.patch(web, {"metadata": {"annotations": {"ipvs-agent.io/scheduler": "wrr"}}})
    node.wait_for(lambda: f"-A -t {VIP}:80 -s wrr" in node.virtual_servers())
    node.wait_for(lambda: text not in node.agent.command("status", "-o", "wide"))
    for thing in (web, behind):
        api.delete(thing)


@pytest.mark.timeout(600)
def test_the_younger_of_two_services_is_told_and_takes_over(node, lab, api, agent_log):
    shared = "198.51.100.9"
    older, younger = (
        objects.service(name, (vip,), namespace="default", externalIPs=[shared])
        for name, vip in (("a-older", "10.96.0.91"), ("b-younger", "10.96.0.92"))
    )
    for service in (older, younger):
        service["metadata"] = {"name": service["metadata"]["name"], "namespace": "default"}
    here = [(lab.a.ipv4, {"nodeName": "node-a"})]  # so this agent does not wait for others to speak first
    behind = objects.endpoint_slice("b-younger", here, namespace="default")
    node.agent.start()
    node.wait_for(lambda: "serving" in agent_log())
    for thing in (older, younger, behind):
        api.create(thing)
    text = f"{shared}:80/TCP is taken by default/a-older"

    def told():
        events = api.get("/apis/events.k8s.io/v1/namespaces/default/events")["items"]
        return [(one["regarding"]["name"], one["reason"]) for one in events if one["note"] == text]

    node.wait_for(lambda: told() == [("b-younger", "AddressTaken")])
    node.wait_for(lambda: f"default/b-younger: {text}" in node.agent.command("status", "-o", "wide"))

    api.delete(older)
    node.wait_for(lambda: node.ask(lab.node, talk.TCP, shared, 80).name == "a")
    node.wait_for(lambda: text not in node.agent.command("status", "-o", "wide"))
    for thing in (younger, behind):
        api.delete(thing)
