"""Changes of Services and endpoints while traffic flows."""

from __future__ import annotations

import time

import pytest

from tests import objects
from tools.lab import talk

VIP = "10.96.0.80"


@pytest.fixture
def serve(node, lab):
    """Start the agent, and have it serve a Service over some pods."""

    def put(*pods, ports=((80, "TCP"),), **spec):
        node.put(
            objects.service("web", ports=ports, **spec),
            objects.endpoint_slice(
                "web", [pod.ipv4 for pod in pods], tuple((*port[:2], 8080) for port in ports)
            ),
        )

    put(*lab.pods)
    node.agent.start()
    node.wait_for_answer(lab.client, talk.TCP, VIP, 80)
    return put


def real_servers(node):
    """The weights of the Service's real servers, by pod address."""
    words = [line.split() for line in node.virtual_servers() if line.startswith("-a")]
    return {line[4].rpartition(":")[0]: int(line[7]) for line in words}


def test_an_endpoint_that_goes_keeps_its_connections_and_gets_no_new_ones(node, lab, serve):
    held = {}
    while len(held) < 3:
        connection = talk.connect(lab.client.namespace, talk.TCP, VIP, 80)
        name = talk.ask_on(connection).name
        if name in held:
            connection.close()
        else:
            held[name] = connection
    serve(lab.a, lab.c)
    node.wait_for(lambda: real_servers(node).get(lab.b.ipv4) == 0)

    assert {"a", "c"} == {node.ask(lab.client, talk.TCP, VIP, 80).name for _ in range(8)}
    assert ["a", "b", "c"] == [talk.ask_on(held[name]).name for name in sorted(held)]
    for connection in held.values():
        connection.close()
    node.wait_for(lambda: lab.b.ipv4 not in real_servers(node))


def test_an_endpoint_that_returns_takes_connections_again(node, lab, serve):
    with _connection_to(lab, "b") as connection:
        serve(lab.a, lab.c)
        node.wait_for(lambda: real_servers(node).get(lab.b.ipv4) == 0)
        serve(*lab.pods)
        node.wait_for(lambda: real_servers(node).get(lab.b.ipv4) == 1)
        assert "b" == talk.ask_on(connection).name

    assert {"a", "b", "c"} == {node.ask(lab.client, talk.TCP, VIP, 80).name for _ in range(6)}


def test_a_service_that_goes_leaves_its_connections_and_refuses_new_ones(node, lab, serve):
    with _connection_to(lab, "a") as connection:
        node.put()
        node.wait_for(lambda: set(real_servers(node).values()) <= {0})
        with pytest.raises(ConnectionRefusedError):
            node.ask(lab.client, talk.TCP, VIP, 80)
        assert "a" == talk.ask_on(connection).name
    node.wait_for(lambda: node.virtual_servers() == [])

    node.wait_for(lambda: VIP not in node.run("ip", "addr", "show", "dev", "kube-ipvs0"))
    node.wait_for(lambda: VIP not in node.run("ipset", "save"))


def test_a_port_that_comes_and_goes_leaves_the_vip_to_the_other(node, lab, serve):
    def of_port():
        return [line for line in node.virtual_servers() if ":81 " in f"{line} "]

    serve(*lab.pods, ports=((80, "TCP"), (81, "TCP")))
    node.wait_for_answer(lab.client, talk.TCP, VIP, 81)
    with talk.connect(lab.client.namespace, talk.TCP, VIP, 81) as connection:
        name = talk.ask_on(connection).name
        serve(*lab.pods)
        pod = getattr(lab, name)
        # What nobody has a connection to goes, the others stay.
        node.wait_for(
            lambda: (
                [f"-a -t {VIP}:81 -r {pod.ipv4}:8080 -m -w 0"]
                == [line for line in of_port() if line.startswith("-a")]
            )
        )
        time.sleep(6)
        assert name == talk.ask_on(connection).name
        with pytest.raises(ConnectionRefusedError):
            node.ask(lab.client, talk.TCP, VIP, 81)
        assert {"a", "b", "c"} == {node.ask(lab.client, talk.TCP, VIP, 80).name for _ in range(6)}
    node.wait_for(lambda: not of_port())

    assert {"a", "b", "c"} == {node.ask(lab.client, talk.TCP, VIP, 80).name for _ in range(6)}
    with pytest.raises(ConnectionRefusedError):
        node.ask(lab.client, talk.TCP, VIP, 81)


def test_connections_outlive_the_address_that_they_came_in_on(node, lab, serve):
    external = "10.96.3.80"

    def real_servers_there():
        return [line for line in node.virtual_servers() if line.startswith(f"-a -t {external}:80 ")]

    serve(*lab.pods, externalIPs=[external])
    node.wait_for_answer(lab.client, talk.TCP, external, 80)
    with talk.connect(lab.client.namespace, talk.TCP, external, 80) as connection:
        name = talk.ask_on(connection).name
        serve(*lab.pods)
        pod = getattr(lab, name)
        # What nobody has a connection to goes, the others stay.
        node.wait_for(lambda: [f"-a -t {external}:80 -r {pod.ipv4}:8080 -m -w 0"] == real_servers_there())
        time.sleep(6)
        assert name == talk.ask_on(connection).name
        with pytest.raises(ConnectionRefusedError):
            node.ask(lab.client, talk.TCP, external, 80)
        assert {"a", "b", "c"} == {node.ask(lab.client, talk.TCP, VIP, 80).name for _ in range(6)}
    node.wait_for(lambda: external not in "".join(node.virtual_servers()))
    node.wait_for(lambda: external not in node.run("ip", "addr", "show", "dev", "kube-ipvs0"))


def test_udp_flows_move_when_their_endpoint_goes(node, lab, serve):
    udp = ((80, "UDP"),)
    serve(*lab.pods, ports=udp)
    node.wait_for(lambda: any(line.startswith("-A -u") for line in node.virtual_servers()))
    node.wait_for_answer(lab.client, talk.UDP, VIP, 80)
    with talk.connect(lab.client.namespace, talk.UDP, VIP, 80) as flow:
        first = talk.ask_on(flow).name
        flow.settimeout(1.0)  # what is lost now must not cost more than the next attempt
        serve(*(pod for pod in lab.pods if pod.name != first), ports=udp)
        node.wait_for(lambda: len(real_servers(node)) == 2)

        # The first packet after the change is lost: it is by it that IPVS ends the old flow.
        node.wait_for(lambda: talk.ask_on(flow).name != first)


def test_affinity_can_be_turned_on_and_off(node, lab, serve):
    serve(*lab.pods, sessionAffinity="ClientIP")
    node.wait_for(lambda: any("-p 10800" in line for line in node.virtual_servers()))
    assert 1 == len({node.ask(lab.client, talk.TCP, VIP, 80).name for _ in range(6)})
    serve(*lab.pods)
    node.wait_for(lambda: not any("-p 10800" in line for line in node.virtual_servers()))

    assert {"a", "b", "c"} == {node.ask(lab.client, talk.TCP, VIP, 80).name for _ in range(6)}


def _connection_to(lab, name):
    while True:
        connection = talk.connect(lab.client.namespace, talk.TCP, VIP, 80)
        if talk.ask_on(connection).name == name:
            return connection
        connection.close()
