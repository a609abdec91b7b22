"""JSON of the API to typed objects."""

from __future__ import annotations

import json
import random

import msgspec
import pytest

from ipvs_agent.addresses import Family, format_address, parse_address, parse_network
from ipvs_agent.model import Endpoint, EndpointSlice, Node, ObjectName, Protocol, Service, ServicePort
from ipvs_agent.sources.changes import Kind, Put, Rejected, Removed
from ipvs_agent.sources.decode import decode
from tests.mutations import mutated

WEB = ObjectName("default", "web")
CLUSTER_IP, CLUSTER_IP_6 = parse_address("10.96.0.10"), parse_address("fd00::10")
WEB_PORT = ServicePort(Family.IPV4, Protocol.TCP, "http", 80, 0, CLUSTER_IP)


def service(status=None, **spec):
    """Return a Service with one port, and with these fields of spec beside or instead."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "web",
            "namespace": "default",
            "uid": "1234",
            "creationTimestamp": "2026-01-02T03:04:05Z",
        },
        "spec": {
            "clusterIP": "10.96.0.10",
            "ports": [{"name": "http", "port": 80, "targetPort": "x"}],
            **spec,
        },
        "status": status,
    }


def endpoint_slice(*endpoints, **fields):
    """Return a slice of the Service web, with these endpoints and fields."""
    return {
        "metadata": {
            "name": "web-x",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": list(endpoints),
        **fields,
    }


def decoded(kind, value):
    return decode(kind, json.dumps(value).encode())


def put(kind, value):
    """Decode what is a Put; return its object."""
    change = decoded(kind, value)
    assert isinstance(change, Put), change
    return change.object


def told(value):
    return [str(skipped) for skipped in value.skipped]


@pytest.mark.parametrize(
    ("text", "created", "faults"),
    [
        pytest.param("2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z", [], id="as the API has it"),
        pytest.param("2024-01-01T01:00:00+02:00", "2023-12-31T23:00:00Z", [], id="elsewhere"),
        pytest.param("2024-01-01T00:00:00.9Z", "2024-01-01T00:00:00Z", [], id="with a fraction"),
        pytest.param(None, "", [], id="nobody said"),
        *(
            pytest.param(
                text,
                "",
                [f"Service default/web: metadata.creationTimestamp: '{text}' is not a time"],
                id=text,
            )
            for text in ("yesterday", "2024-01-01", "2024-13-01", "0001-01-01T00:00:00+02:00")
        ),
    ],
)
def test_when_a_service_was_made_is_compared_as_time(text, created, faults):
    """Of two that ask for one address the older has it, whatever zone their clocks are in."""
    asked = service()
    asked["metadata"]["creationTimestamp"] = text
    got = put(Kind.SERVICE, asked)

    assert (created, faults) == (got.created, told(got))


class TestService:
    def test_all_fields(self):
        """A Service of both families with all that is used of it."""
        document = service(
            status={
                "loadBalancer": {
                    "ingress": [{"ip": "192.0.2.7"}, {"ip": "2001:db8::7"}, {"hostname": "lb.example"}]
                }
            },
            type="LoadBalancer",
            clusterIPs=["10.96.0.10", "fd00::10"],
            ports=[
                {"name": "http", "port": 80, "nodePort": 30080},
                {"name": "dns", "port": 53, "protocol": "UDP"},
            ],
            externalIPs=["198.51.100.1", "2001:db8::1"],
            loadBalancerSourceRanges=[" 10.0.0.0/8 ", "2001:db8::/32"],
            sessionAffinity="ClientIP",
            internalTrafficPolicy="Local",
            externalTrafficPolicy="Local",
            healthCheckNodePort=32000,
        )
        document["metadata"]["annotations"] = {"ipvs-agent.io/scheduler": "sh", "other.example/a": "b"}
        outside = {
            Family.IPV4: ((parse_address("198.51.100.1"),), (parse_address("192.0.2.7"),)),
            Family.IPV6: ((parse_address("2001:db8::1"),), (parse_address("2001:db8::7"),)),
        }
        expected = Service(
            WEB,
            uid="1234",
            created="2026-01-02T03:04:05Z",
            ports=(
                ServicePort(Family.IPV4, Protocol.TCP, "http", 80, 30080, CLUSTER_IP, *outside[Family.IPV4]),
                ServicePort(
                    Family.IPV6, Protocol.TCP, "http", 80, 30080, CLUSTER_IP_6, *outside[Family.IPV6]
                ),
                ServicePort(Family.IPV4, Protocol.UDP, "dns", 53, 0, CLUSTER_IP, *outside[Family.IPV4]),
                ServicePort(Family.IPV6, Protocol.UDP, "dns", 53, 0, CLUSTER_IP_6, *outside[Family.IPV6]),
            ),
            affinity_seconds=10800,
            internal_local=True,
            external_local=True,
            source_ranges=(parse_network("10.0.0.0/8"), parse_network("2001:db8::/32")),
            health_check_node_port=32000,
            annotations={"ipvs-agent.io/scheduler": "sh"},
        )

        assert expected == put(Kind.SERVICE, document)

    @pytest.mark.parametrize(
        "spec",
        [
            pytest.param({"clusterIP": "None"}, id="headless"),
            pytest.param({"clusterIP": "None", "clusterIPs": ["None"]}, id="headless in both fields"),
            pytest.param({"clusterIP": ""}, id="empty cluster IP"),
            pytest.param({"clusterIP": None}, id="no cluster IP"),
            pytest.param({"type": "ExternalName"}, id="ExternalName with a cluster IP"),
        ],
    )
    def test_asks_nothing_of_a_node(self, spec):
        assert Removed(Kind.SERVICE, WEB) == decoded(Kind.SERVICE, service(**spec))

    @pytest.mark.parametrize(
        ("labels", "expected"),
        [
            pytest.param({"k8s-app": "kube-dns"}, True, id="the label"),
            pytest.param({"k8s-app": "other"}, False, id="another value"),
            pytest.param({"k8s-app": None}, False, id="null"),
            pytest.param(None, False, id="no labels"),
        ],
    )
    def test_is_the_dns_of_the_cluster_whatever_its_name(self, labels, expected):
        document = service()
        document["metadata"]["labels"] = labels

        assert expected == decoded(Kind.SERVICE, document).object.is_dns

    @pytest.mark.parametrize("spec", [{"type": "ExternalName"}, {"clusterIP": "None"}])
    def test_the_label_on_what_is_not_served_changes_nothing(self, spec):
        document = service(**spec)
        document["metadata"]["labels"] = {"k8s-app": "kube-dns"}

        assert Removed(Kind.SERVICE, WEB) == decoded(Kind.SERVICE, document)

    @pytest.mark.parametrize(
        "label", ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"]
    )
    @pytest.mark.parametrize("value", ["other", ""])
    def test_is_for_another_proxy(self, label, value):
        document = service()
        document["metadata"]["labels"] = {label: value}

        assert Removed(Kind.SERVICE, WEB) == decoded(Kind.SERVICE, document)

    @pytest.mark.parametrize(
        ("change", "name", "message"),
        [
            pytest.param(
                lambda it: it.pop("spec"), WEB, "Service default/web: spec: is missing", id="no spec"
            ),
            pytest.param(
                lambda it: it["spec"].update(ports=[{"port": "80"}]),
                WEB,
                "Service default/web: spec.ports[0].port: expected int, got str",
                id="text for a number",
            ),
            pytest.param(
                lambda it: it["spec"].update(externalIPs="192.0.2.1"),
                WEB,
                "Service default/web: spec.externalIPs: expected array, got str",
                id="text for a list",
            ),
            pytest.param(
                lambda it: it.pop("metadata"), None, "Service: metadata: is missing", id="no metadata"
            ),
            pytest.param(
                lambda it: it["metadata"].pop("name"),
                None,
                "Service 'default': metadata.name: is missing",
                id="no name",
            ),
            pytest.param(
                lambda it: it["metadata"].update(namespace=""),
                None,
                "Service 'web': metadata.namespace: is missing",
                id="no namespace",
            ),
            pytest.param(
                lambda it: it["metadata"].update(name="$(reboot)"),
                None,
                "Service 'default'/'$(reboot)': metadata.name: '$(reboot)' is not a name of the API",
                id="shell characters in the name",
            ),
            pytest.param(
                lambda it: it["metadata"].update(name="web\n"),
                None,
                "Service 'default'/'web\\n': metadata.name: 'web\\n' is not a name of the API",
                id="a line's end in the name",
            ),
            pytest.param(
                lambda it: it["metadata"].update(namespace="a;b"),
                None,
                "Service 'a;b'/'web': metadata.namespace: 'a;b' is not a name of the API",
                id="shell characters in the namespace",
            ),
            pytest.param(
                lambda it: it["metadata"].update(name="w" * 64),
                None,
                f"Service 'default'/'{'w' * 64}': metadata.name: '{'w' * 64}' is not a name of the API",
                id="a name that is too long",
            ),
        ],
    )
    def test_rejected(self, change, name, message):
        document = service()
        change(document)

        rejected = decoded(Kind.SERVICE, document)

        assert (name, message) == (rejected.name, str(rejected.skipped))

    @pytest.mark.parametrize(
        ("port", "message"),
        [
            pytest.param({"port": 99999}, "port: 99999 is not a port (1 to 65535)", id="port 99999"),
            pytest.param({"port": 0}, "port: 0 is not a port (1 to 65535)", id="port 0"),
            pytest.param({"port": -1}, "port: -1 is not a port (1 to 65535)", id="negative"),
            pytest.param({}, "port: is missing", id="no port"),
            pytest.param(
                {"port": 1, "protocol": "ICMP"}, "protocol: 'ICMP' is not TCP, UDP or SCTP", id="protocol"
            ),
            pytest.param({"port": 1, "name": "`id`"}, "name: '`id`' is not a name of the API", id="name"),
            pytest.param({"port": 80, "name": "a"}, "port: 80/TCP is an earlier port too", id="port twice"),
            pytest.param(
                {"port": 81, "name": "http"},
                "name: 'http' is the name of an earlier port too",
                id="name twice",
            ),
        ],
    )
    def test_port_that_is_left_out(self, port, message):
        """Of the ports of a Service the one at fault is left out, and the others are served."""
        ports = [{"name": "http", "port": 80}, port, {"name": "tls", "port": 443}]

        got = put(Kind.SERVICE, service(ports=ports))

        assert [80, 443] == [port.port for port in got.ports]
        assert [f"Service default/web: spec.ports[1].{message}"] == told(got)

    @pytest.mark.parametrize(
        ("node_port", "message"),
        [
            pytest.param(70000, "70000 is not a port (1 to 65535)", id="out of range"),
            pytest.param(30080, "30080/TCP is an earlier node port too", id="twice"),
        ],
    )
    def test_node_port_that_is_left_out(self, node_port, message):
        """A port whose node port is at fault is served without it."""
        ports = [
            {"name": "http", "port": 80, "nodePort": 30080},
            {"name": "tls", "port": 443, "nodePort": node_port},
        ]

        got = put(Kind.SERVICE, service(ports=ports))

        assert [(80, 30080), (443, 0)] == [(port.port, port.node_port) for port in got.ports]
        assert [f"Service default/web: spec.ports[1].nodePort: {message}"] == told(got)

    def test_same_number_in_two_protocols(self):
        ports = [
            {"name": "a", "port": 53, "nodePort": 30053},
            {"name": "b", "port": 53, "nodePort": 30053, "protocol": "UDP"},
        ]

        got = put(Kind.SERVICE, service(ports=ports))

        assert [(Protocol.TCP, 53, 30053), (Protocol.UDP, 53, 30053)] == [
            (port.protocol, port.port, port.node_port) for port in got.ports
        ]
        assert [] == told(got)

    @pytest.mark.parametrize(
        ("address", "reason"),
        [
            pytest.param("127.0.0.1", "127.0.0.1 is a loopback address", id="loopback"),
            pytest.param("0.0.0.0", "0.0.0.0 is the unspecified address", id="unspecified"),
            pytest.param("224.0.0.1", "224.0.0.1 is a multicast address", id="multicast"),
            pytest.param("255.255.255.255", "255.255.255.255 is the broadcast address", id="broadcast"),
            pytest.param("169.254.1.1", "169.254.1.1 is a link-local address", id="link-local"),
            pytest.param("::1", "::1 is a loopback address", id="IPv6 loopback"),
            pytest.param("::", ":: is the unspecified address", id="IPv6 unspecified"),
            pytest.param("ff02::1", "ff02::1 is a multicast address", id="IPv6 multicast"),
            pytest.param("fe80::1", "fe80::1 is a link-local address", id="IPv6 link-local"),
            pytest.param("::ffff:192.0.2.1", "::ffff:192.0.2.1 is an IPv4 address in IPv6 form", id="mapped"),
            pytest.param("lb.example", "'lb.example' is not an IP address", id="a name"),
            pytest.param("192.0.2.1/32", "'192.0.2.1/32' is not an IP address", id="a prefix"),
            pytest.param("192.0.2.010", "'192.0.2.010' is not an IP address", id="a leading zero"),
            pytest.param("192.0.2.1\n", "'192.0.2.1\\n' is not an IP address", id="a line's end"),
            pytest.param("", "'' is not an IP address", id="empty"),
            pytest.param(
                "2001:db8::1",
                "2001:db8::1 is of a family in which the Service has no cluster IP",
                id="family",
            ),
        ],
    )
    def test_external_ip_that_is_left_out(self, address, reason):
        got = put(Kind.SERVICE, service(externalIPs=["192.0.2.8", address]))

        assert ((parse_address("192.0.2.8"),),) == tuple(port.external_ips for port in got.ports)
        assert [f"Service default/web: spec.externalIPs[1]: {reason}"] == told(got)

    def test_address_of_a_load_balancer_that_is_left_out(self):
        status = {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}, {"ip": "192.0.2.8"}]}}

        got = put(Kind.SERVICE, service(status))

        assert ((parse_address("192.0.2.8"),),) == tuple(port.load_balancer_ips for port in got.ports)
        assert [
            "Service default/web: status.loadBalancer.ingress[0].ip: 127.0.0.1 is a loopback address"
        ] == told(got)

    @pytest.mark.parametrize(("mode", "is_served"), [(None, True), ("VIP", True), ("Proxy", False)])
    def test_mode_of_a_load_balancer(self, mode, is_served):
        """A load balancer in mode Proxy is dialled itself, so its address is no VIP."""
        got = put(Kind.SERVICE, service({"loadBalancer": {"ingress": [{"ip": "192.0.2.8", "ipMode": mode}]}}))

        assert is_served == bool(got.ports[0].load_balancer_ips)
        assert [] == told(got)

    def test_source_range_that_cannot_be_read(self):
        """Where a source range cannot be read, the load balancer's address is not open to everyone."""
        status = {"loadBalancer": {"ingress": [{"ip": "192.0.2.8"}]}}

        got = put(Kind.SERVICE, service(status, loadBalancerSourceRanges=["10.0.0.0/8", "10.0.0.0/33"]))

        assert ((WEB_PORT,), ()) == (got.ports, got.source_ranges)
        assert [
            "Service default/web: spec.loadBalancerSourceRanges[1]: '10.0.0.0/33' is not a CIDR, so the load"
            " balancer's addresses are not served"
        ] == told(got)

    @pytest.mark.parametrize(
        ("spec", "families", "message"),
        [
            pytest.param(
                {"clusterIP": "not-an-ip"}, [], "spec.clusterIP: 'not-an-ip' is not an IP address", id="no IP"
            ),
            pytest.param(
                {"clusterIP": "not-an-ip", "externalIPs": ["192.0.2.1"]},
                [],
                "spec.clusterIP: 'not-an-ip' is not an IP address",
                id="no IP, with external addresses",
            ),
            pytest.param(
                {"clusterIPs": ["10.96.0.10", "not-an-ip"]},
                [Family.IPV4],
                "spec.clusterIPs[1]: 'not-an-ip' is not an IP address",
                id="one of two",
            ),
            pytest.param(
                {"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "10.96.0.11"]},
                [Family.IPV4],
                "spec.clusterIPs[1]: 10.96.0.11 is a second address of its family",
                id="two of a family",
            ),
            pytest.param(
                {"clusterIP": "not-an-ip", "clusterIPs": ["10.96.0.10"]},
                [Family.IPV4],
                "spec.clusterIP: 'not-an-ip' is not among spec.clusterIPs",
                id="not the first of clusterIPs",
            ),
            pytest.param(
                {"clusterIP": "127.0.0.1"},
                [],
                "spec.clusterIP: 127.0.0.1 is a loopback address",
                id="loopback",
            ),
        ],
    )
    def test_cluster_ip_that_is_left_out(self, spec, families, message):
        got = put(Kind.SERVICE, service(**spec))

        assert families == [port.family for port in got.ports]
        assert [f"Service default/web: {message}"] == told(got)

    @pytest.mark.parametrize(
        ("seconds", "expected", "messages"),
        [
            pytest.param(None, 10800, [], id="default"),
            pytest.param(600, 600, [], id="said"),
            pytest.param(86400, 86400, [], id="longest"),
            pytest.param(0, 1, ["0 is not within 1 to 86400, so 1 is used"], id="too short"),
            pytest.param(86401, 86400, ["86401 is not within 1 to 86400, so 86400 is used"], id="too long"),
        ],
    )
    def test_affinity(self, seconds, expected, messages):
        config = {"clientIP": {"timeoutSeconds": seconds}}

        got = put(Kind.SERVICE, service(sessionAffinity="ClientIP", sessionAffinityConfig=config))

        field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        assert expected == got.affinity_seconds
        assert [f"Service default/web: {field}: {message}" for message in messages] == told(got)

    @pytest.mark.parametrize(
        ("spec", "expected"),
        [
            pytest.param({}, 32000, id="asked for"),
            pytest.param({"externalTrafficPolicy": "Cluster"}, 0, id="policy Cluster"),
            pytest.param({"type": "NodePort"}, 0, id="no load balancer"),
            pytest.param({"healthCheckNodePort": None}, 0, id="null"),
            pytest.param({"healthCheckNodePort": 0}, 0, id="none allocated"),
            pytest.param(
                {"ports": [{"port": 80, "protocol": "UDP", "nodePort": 32000}]},
                32000,
                id="a UDP node port too",
            ),
        ],
    )
    def test_health_check_node_port(self, spec, expected):
        """Only load balancers whose traffic stays on the node ask whether it has endpoints."""
        asked = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}

        got = put(Kind.SERVICE, service(**{**asked, **spec}))

        assert expected == got.health_check_node_port
        assert [] == told(got)

    @pytest.mark.parametrize(
        ("number", "reason"),
        [
            pytest.param(70000, "70000 is not a port (1 to 65535)", id="out of range"),
            pytest.param(-1, "-1 is not a port (1 to 65535)", id="negative"),
            pytest.param(30080, "30080 is a node port of this Service too", id="a TCP node port too"),
        ],
    )
    def test_health_check_node_port_that_is_left_out(self, number, reason):
        spec = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": number}

        got = put(Kind.SERVICE, service(ports=[{"port": 80, "nodePort": 30080}], **spec))

        assert (0, [30080]) == (got.health_check_node_port, [port.node_port for port in got.ports])
        assert [f"Service default/web: spec.healthCheckNodePort: {reason}"] == told(got)

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            pytest.param(
                {"sessionAffinity": "Cookie"},
                "sessionAffinity: 'Cookie' is not None or ClientIP",
                id="affinity",
            ),
            pytest.param(
                {"internalTrafficPolicy": "local"},
                "internalTrafficPolicy: 'local' is not Cluster or Local, so Cluster is used",
                id="internal policy",
            ),
            pytest.param(
                {"externalTrafficPolicy": "X"},
                "externalTrafficPolicy: 'X' is not Cluster or Local, so Cluster is used",
                id="external policy",
            ),
            pytest.param({"ports": None}, "ports: is missing", id="no ports"),
        ],
    )
    def test_unknown_words(self, spec, message):
        got = put(Kind.SERVICE, service(**spec))

        assert (0, False, False) == (got.affinity_seconds, got.internal_local, got.external_local)
        assert [f"Service default/web: spec.{message}"] == told(got)


class TestEndpointSlice:
    def test_all_fields(self):
        full = {
            "addresses": ["10.244.0.1", "10.244.0.99"],
            "conditions": {"ready": False, "serving": True, "terminating": True},
            "nodeName": "node-1",
            "zone": "zone-a",
            "hints": {"forZones": [{"name": "zone-a"}, {"name": "zone-b"}], "forNodes": [{"name": "node-1"}]},
        }
        bare = {"addresses": ["10.244.0.2"], "conditions": {}}
        ports = [{"name": "http", "port": 8080}, {"name": None, "port": 9090, "protocol": "UDP"}]
        first = ("node-1", "zone-a", ("zone-a", "zone-b"), ("node-1",))
        expected = EndpointSlice(
            ObjectName("default", "web-x"),
            WEB,
            Family.IPV4,
            {
                name: (
                    Endpoint(parse_address("10.244.0.1"), port, False, True, True, *first),
                    Endpoint(parse_address("10.244.0.2"), port, True, True, False),
                )
                for name, port in (("http", 8080), ("", 9090))
            },
        )

        assert expected == put(Kind.ENDPOINT_SLICE, endpoint_slice(full, bare, ports=ports))

    @pytest.mark.parametrize(
        "fields",
        [
            pytest.param({"metadata": {"name": "web-x", "namespace": "default"}}, id="for no Service"),
            pytest.param({"addressType": "FQDN"}, id="of names"),
            pytest.param(
                {
                    "metadata": {
                        "name": "web-x",
                        "namespace": "default",
                        "labels": {"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""},
                    }
                },
                id="of a headless Service",
            ),
        ],
    )
    def test_asks_nothing_of_a_node(self, fields):
        expected = Removed(Kind.ENDPOINT_SLICE, ObjectName("default", "web-x"))

        assert expected == decoded(Kind.ENDPOINT_SLICE, endpoint_slice(**fields))

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            pytest.param({"addressType": "IPv5"}, "addressType: 'IPv5' is not IPv4, IPv6 or FQDN", id="type"),
            pytest.param({"addressType": None}, "addressType: None is not IPv4, IPv6 or FQDN", id="no type"),
            pytest.param(
                {
                    "metadata": {
                        "name": "web-x",
                        "namespace": "default",
                        "labels": {"kubernetes.io/service-name": "a b"},
                    }
                },
                "metadata.labels: 'a b' in kubernetes.io/service-name is not the name of a Service",
                id="name of the Service",
            ),
            pytest.param(
                {"endpoints": [{"addresses": [5]}]},
                "endpoints[0].addresses[0]: expected str, got int",
                id="a number for an address",
            ),
        ],
    )
    def test_rejected(self, fields, message):
        rejected = decoded(Kind.ENDPOINT_SLICE, endpoint_slice(**fields))

        assert isinstance(rejected, Rejected)
        assert f"EndpointSlice default/web-x: {message}" == str(rejected.skipped)

    @pytest.mark.parametrize(
        ("addresses", "message"),
        [
            pytest.param(["fd00::1"], "fd00::1 is not an IPv4 address", id="IPv6 in an IPv4 slice"),
            pytest.param(["127.0.0.1"], "127.0.0.1 is a loopback address", id="loopback"),
            pytest.param(["169.254.0.1"], "169.254.0.1 is a link-local address", id="link-local"),
            pytest.param(["0.0.0.0"], "0.0.0.0 is the unspecified address", id="unspecified"),
            pytest.param(["239.1.1.1"], "239.1.1.1 is a multicast address", id="multicast"),
            pytest.param(["web.example"], "'web.example' is not an IP address", id="a name"),
            pytest.param(["10.0.0.1\0"], "'10.0.0.1\\x00' is not an IP address", id="a NUL"),
            pytest.param([], "'' is not an IP address", id="none"),
            pytest.param(None, "'' is not an IP address", id="null"),
        ],
    )
    def test_endpoint_that_is_left_out(self, addresses, message):
        good = {"addresses": ["10.244.0.2"]}

        got = put(Kind.ENDPOINT_SLICE, endpoint_slice({"addresses": addresses}, good))

        assert {"http": (Endpoint(parse_address("10.244.0.2"), 8080),)} == got.endpoints
        assert [f"EndpointSlice default/web-x: endpoints[0].addresses: {message}"] == told(got)

    def test_ipv6(self):
        """Addresses that begin like special ones are looked at whole."""
        document = endpoint_slice(
            {"addresses": ["64:ff9b::a"]}, {"addresses": ["fec0::1"]}, addressType="IPv6"
        )

        got = put(Kind.ENDPOINT_SLICE, document)

        assert [parse_address("64:ff9b::a"), parse_address("fec0::1")] == [
            endpoint.address for endpoint in got.endpoints["http"]
        ]
        assert [] == told(got)

    @pytest.mark.parametrize(
        ("port", "message"),
        [
            pytest.param({"name": "a"}, "port: is missing", id="no port"),
            pytest.param({"name": "a", "port": 65536}, "port: 65536 is not a port (1 to 65535)", id="range"),
            pytest.param({"name": "A|b", "port": 1}, "name: 'A|b' is not a name of the API", id="name"),
            pytest.param(
                {"name": "http", "port": 1},
                "name: 'http' is the name of an earlier port too",
                id="name twice",
            ),
        ],
    )
    def test_port_that_is_left_out(self, port, message):
        document = endpoint_slice(ports=[{"name": "http", "port": 8080}, port])

        got = put(Kind.ENDPOINT_SLICE, document)

        assert {"http": ()} == got.endpoints
        assert [f"EndpointSlice default/web-x: ports[1].{message}"] == told(got)

    def test_node_that_cannot_be_one(self):
        """An endpoint on a node of an impossible name serves, as one that is on no known node."""
        got = put(Kind.ENDPOINT_SLICE, endpoint_slice({"addresses": ["10.244.0.2"], "nodeName": "a\x1b[2J"}))

        assert {"http": (Endpoint(parse_address("10.244.0.2"), 8080),)} == got.endpoints
        assert [
            "EndpointSlice default/web-x: endpoints[0].nodeName: 'a\\x1b[2J' is not a name of the API, so it"
            " is on no known node"
        ] == told(got)

    def test_repeated_names_are_kept_once(self):
        """Of hundreds of thousands of endpoints, those of a node share the text of its name."""
        first, second = (
            put(
                Kind.ENDPOINT_SLICE,
                endpoint_slice({"addresses": ["10.244.0.2"], "nodeName": "node-1", "zone": "zone-a"}),
            ).endpoints["http"][0]
            for _ in range(2)
        )

        assert first.node is second.node
        assert first.zone is second.zone


class TestNode:
    def test_all_fields(self):
        document = {
            "metadata": {"name": "node-1.example", "labels": {"topology.kubernetes.io/zone": "zone-a"}},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]},
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": "192.0.2.1"},
                    {"type": "ExternalIP", "address": "2001:db8::1"},
                    {"type": "InternalIP", "address": "192.0.2.1"},
                    {"type": "Hostname", "address": "node-1"},
                ]
            },
        }
        expected = Node(
            "node-1.example",
            zone="zone-a",
            pod_networks=(parse_network("10.244.1.0/24"), parse_network("fd00:1::/64")),
            addresses=(parse_address("192.0.2.1"), parse_address("2001:db8::1")),
        )

        assert Put(Kind.NODE, expected) == decoded(Kind.NODE, document)

    @pytest.mark.parametrize("is_external_first", [False, True])
    def test_internal_addresses_come_before_external_ones(self, is_external_first):
        entries = [
            {"type": "InternalIP", "address": "192.0.2.1"},
            {"type": "InternalIP", "address": "2001:db8::1"},
            {"type": "ExternalIP", "address": "203.0.113.50"},
        ]
        entries.sort(key=lambda entry: (entry["type"] == "InternalIP") is is_external_first)

        got = put(Kind.NODE, {"metadata": {"name": "node-1"}, "status": {"addresses": entries}})

        assert ("192.0.2.1", "2001:db8::1", "203.0.113.50") == tuple(map(format_address, got.addresses))

    def test_parts_that_are_left_out(self):
        document = {
            "metadata": {"name": "node-1"},
            "spec": {"podCIDR": "10.244.1.0"},
            "status": {"addresses": [{"type": "InternalIP", "address": "nowhere"}, {"type": "InternalIP"}]},
        }

        got = put(Kind.NODE, document)

        assert ((), ()) == (got.pod_networks, got.addresses)
        assert [
            "Node node-1: spec.podCIDR: '10.244.1.0' is not a CIDR",
            "Node node-1: status.addresses[0].address: 'nowhere' is not an IP address",
            "Node node-1: status.addresses[1].address: '' is not an IP address",
        ] == told(got)

    def test_name_with_shell_characters(self):
        rejected = decoded(Kind.NODE, {"metadata": {"name": "a&b"}})

        assert "Node 'a&b': metadata.name: 'a&b' is not a name of the API" == str(rejected.skipped)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"5",
        b"\xff",
        b'{"metadata": {"name": "\xff"}}',
        b'{"metadata": {"name": "\\ud800"}}',
        b'{"metadata": {"name": 1e999}}',
        b'{"metadata":' + b"[" * 100_000,
        b"{} {}",
    ],
)
def test_what_is_no_object_is_rejected_without_a_name(kind, data):
    rejected = decode(kind, data)

    assert (None, kind.value) == (rejected.name, rejected.skipped.subject)


def test_raw_json_is_taken_as_it_is():
    """Items of a list need no copy."""
    items = msgspec.json.decode(json.dumps([service()]).encode(), type=list[msgspec.Raw])

    assert decoded(Kind.SERVICE, service()) == decode(Kind.SERVICE, items[0])


def test_long_values_are_told_short():
    got = put(Kind.SERVICE, service(externalIPs=["x" * 10_000]))

    assert len(got.skipped[0].reason) < 120


@pytest.mark.parametrize("seed", range(10))
def test_any_mutation_of_an_object_has_an_answer(seed):
    """Whatever is done to good objects, decoding answers, and what it lets through is typed right."""
    rng = random.Random(seed)
    ingress = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    originals = {
        Kind.SERVICE: service(ingress, externalIPs=["192.0.2.2"], loadBalancerSourceRanges=["10.0.0.0/8"]),
        Kind.ENDPOINT_SLICE: endpoint_slice(
            {"addresses": ["10.0.0.1"], "conditions": {"ready": True}, "zone": "a"}
        ),
        Kind.NODE: {
            "metadata": {"name": "n"},
            "spec": {"podCIDRs": ["10.0.0.0/8"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
        },
    }
    for _ in range(300):
        kind = rng.choice(list(originals))
        document = mutated(originals[kind], rng)

        change = decoded(kind, document)

        assert isinstance(change, Put | Removed | Rejected)
        if isinstance(change, Put):
            # msgspec checks the types of a value when it reads it, not when it is made.
            assert change.object == msgspec.convert(msgspec.to_builtins(change.object), type(change.object))
        assert all(character.isprintable() for character in str(change))
