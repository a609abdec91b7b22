"""A list that does not name an object takes away what was known, said and done because of it."""

from __future__ import annotations

import msgspec

from ipvs_agent.model import Node, ObjectName, Skipped
from ipvs_agent.reconcile.messages import AddressesChanged
from ipvs_agent.reconcile.outlets import Outlets
from ipvs_agent.sources.changes import Kind, Listed, Put, Rejected
from ipvs_agent.testing.builders import address, endpoint, endpoint_slice, port, service
from tests.unit.test_reconciler import Bench
from tests.unit.test_unserved import Users

WEB = ObjectName("shop", "web")
A_FIELD = Skipped("Service shop/web", "spec.externalIPs[0]", "127.0.0.1 is a loopback address")
ALL_OF_IT = Skipped("Service shop/web", "spec", "is missing")
OF_A_SLICE = Skipped("EndpointSlice shop/web-1", "endpoints[0]", "is nothing")
FAULTY_SLICE = msgspec.structs.replace(endpoint_slice(), skipped=(OF_A_SLICE,))


def told(*changes):
    """Users of a cluster in which all was listed, and then this was said."""
    users = Users()
    bench = Bench(outlets=Outlets(events=users, notes=users)).list_all()
    return users, bench.tell(*changes)


def test_the_note_on_a_service_goes():
    users, bench = told(Put(Kind.SERVICE, service(skipped=(A_FIELD,))))
    assert [WEB] == list(users.flushed)
    bench.tell(Listed(Kind.SERVICE, frozenset()))

    assert {} == users.flushed


def test_the_note_on_a_service_that_is_named_stays(caplog):
    users, bench = told(Put(Kind.SERVICE, service(skipped=(A_FIELD,))))
    bench.tell(Listed(Kind.SERVICE, frozenset({WEB})), Listed(Kind.NODE, frozenset()))

    assert [WEB] == list(users.flushed)
    assert 1 == caplog.text.count(A_FIELD.reason)


def test_the_fault_of_a_slice_is_said_again_when_it_comes_back(caplog):
    listed = Listed(Kind.ENDPOINT_SLICE, frozenset({FAULTY_SLICE.name}))
    _, bench = told(Put(Kind.ENDPOINT_SLICE, FAULTY_SLICE), listed)
    assert 1 == caplog.text.count(str(OF_A_SLICE))
    bench.now += 10
    bench.tell(Listed(Kind.ENDPOINT_SLICE, frozenset()), Put(Kind.ENDPOINT_SLICE, FAULTY_SLICE), listed)

    assert 2 == caplog.text.count(str(OF_A_SLICE))


def test_what_is_unusable_is_known_until_a_list_does_not_say_it(caplog):
    """Objects that cannot be read are said before the list's names, and are not among them."""
    rejected, listed = Rejected(Kind.SERVICE, WEB, ALL_OF_IT), Listed(Kind.SERVICE, frozenset())
    users, bench = told(rejected, listed)
    bench.tell(rejected, listed)
    assert {WEB: ("spec: is missing",)} == users.flushed
    assert 1 == caplog.text.count(str(ALL_OF_IT))
    bench.tell(listed)

    assert {} == users.flushed


def test_what_was_unusable_and_is_mended_goes_as_any_other():
    users, bench = told(
        Rejected(Kind.SERVICE, WEB, ALL_OF_IT), Put(Kind.SERVICE, service(skipped=(A_FIELD,)))
    )
    assert [WEB] == list(users.flushed)
    bench.tell(Listed(Kind.SERVICE, frozenset()))

    assert {} == users.flushed


def test_nodeports_leave_the_addresses_of_a_node_that_is_gone():
    bench = Bench(node_port_primary=True)
    bench.kernel.node_addresses.assign("eth0", ["192.0.2.1"])
    bench.reconciler.tell(AddressesChanged())
    bench.put(service("shop/web", port(node_port=30080))).list_all()
    node = Node("node-a", addresses=(address("192.0.2.1"),))
    bench.tell(Put(Kind.NODE, node), Listed(Kind.NODE, frozenset({ObjectName("", "node-a")})))
    assert "-t 192.0.2.1:30080" in bench.tables()
    bench.tell(Listed(Kind.NODE, frozenset()))

    assert ["-t 10.96.0.80:80"] == list(bench.tables())


def test_an_address_where_the_api_server_was_can_be_bound_again():
    bench = Bench()
    at_master = {"https": [endpoint("192.0.2.9", 6443)]}
    api_server = service("default/kubernetes", port("10.96.0.1", 443, name="https"))
    web = service("shop/web", port(external_ips=["192.0.2.9"]))
    bench.put(api_server, endpoint_slice("default/kubernetes", at_master), web).list_all()
    assert "192.0.2.9" not in bench.vips()
    bench.tell(Listed(Kind.ENDPOINT_SLICE, frozenset()))

    assert "192.0.2.9" in bench.vips()
