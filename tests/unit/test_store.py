"""The store: what a change touches."""

from __future__ import annotations

import itertools

from ipvs_agent.model import EndpointSlice, Node, Service, Skipped
from ipvs_agent.sources.changes import Kind, Listed, Put, Rejected, Removed
from ipvs_agent.sources.store import Store
from ipvs_agent.testing.builders import endpoint, endpoint_slice, name, service

KINDS = {Service: Kind.SERVICE, EndpointSlice: Kind.ENDPOINT_SLICE, Node: Kind.NODE}
WEB = name("shop/web")


def put(store, thing):
    store.apply(Put(KINDS[type(thing)], thing))


def filled(*things):
    store = Store("node-a")
    for thing in things:
        put(store, thing)
    store.take_dirty(100)
    return store


def test_a_service_and_its_slices_make_it_dirty_once():
    store = Store("node-a")
    put(store, service())
    put(store, endpoint_slice(endpoints=[endpoint("10.244.1.11")]))

    assert [WEB] == store.take_dirty(10)
    assert [] == store.take_dirty(10)


def test_what_is_as_it_was_touches_nothing():
    store = filled(service(), endpoint_slice())
    put(store, service())
    put(store, endpoint_slice())

    assert [] == store.take_dirty(10)


def test_a_slice_that_changes_its_service_touches_both():
    store = filled(endpoint_slice())
    put(store, EndpointSlice(name("shop/web-1"), name("shop/other"), endpoint_slice().family, {}))

    assert {WEB, name("shop/other")} == set(store.take_dirty(10))
    assert [] == list(store.slices(WEB))
    assert 1 == len(store.slices(name("shop/other")))


def test_removals_and_rejections_take_objects_away():
    store = filled(service(), endpoint_slice())
    store.apply(Rejected(Kind.SERVICE, WEB, Skipped("Service shop/web", "spec", "is missing")))
    assert {} == store.services
    store.apply(Removed(Kind.ENDPOINT_SLICE, name("shop/web-1")))
    assert [] == list(store.slices(WEB))

    assert [WEB] == store.take_dirty(10)


def test_removing_what_is_not_there_touches_nothing():
    store = Store("node-a")
    for kind in Kind:
        store.apply(Removed(kind, WEB))

    assert [] == store.take_dirty(10)


def test_a_listing_takes_away_what_it_does_not_name():
    store = filled(service("a/stays"), service("a/goes"), endpoint_slice("a/goes"))
    store.apply(Listed(Kind.SERVICE, frozenset({name("a/stays")})))

    assert [name("a/goes")] == store.take_dirty(10)
    assert [name("a/stays")] == list(store.services)


def test_it_is_complete_when_every_kind_was_listed():
    store = Store("node-a")
    for kind in Kind:
        assert not store.complete
        store.apply(Listed(kind, frozenset()))

    assert store.complete


def test_the_api_servers_own_service_comes_first_and_then_the_dns():
    store = Store("node-a")
    for text in ("a/a", "a/b", "a/c", "kube-system/kube-dns", "default/kubernetes"):
        put(store, service(text))

    first = [name("default/kubernetes"), name("kube-system/kube-dns")]
    assert [*first, name("a/a")] == store.take_dirty(2)
    assert [name("a/b"), name("a/c")] == store.take_dirty(2)


def test_a_lone_change_does_not_wait_for_the_crowd_before_it_nor_the_crowd_for_ever():
    store = Store("node-a")
    for number in range(100):
        put(store, service(f"crowd/{number}"))
    waited = 0
    for number in itertools.count():
        put(store, service(f"lone/{number}"))
        taken = store.take_dirty(10)
        assert name(f"lone/{number}") in taken
        if name("crowd/50") in taken:
            break
        waited += 1
    assert 10 == waited


def test_what_is_labelled_as_the_dns_comes_before_all_but_those_until_it_is_not_or_goes():
    store = Store("node-a")
    dns = service("other/dns-default", is_dns=True)
    for one in (service("a/a"), dns, service("kube-system/kube-dns")):
        put(store, one)
    assert [name("kube-system/kube-dns"), dns.name, name("a/a")] == store.take_dirty(3)
    assert [0, 1, 2, 3] == [
        store.rank(name(text))
        for text in ("default/kubernetes", "kube-system/kube-dns", "other/dns-default", "a/a")
    ]

    put(store, service("a/b"))
    put(store, service("other/dns-default"))
    assert [name("a/b"), dns.name] == store.take_dirty(2)

    put(store, dns)
    store.apply(Removed(Kind.SERVICE, dns.name))
    assert 3 == store.rank(dns.name)


def test_a_label_that_all_have_puts_few_first():
    store = Store("node-a")
    many = [service(f"a/{number}", is_dns=True) for number in range(100)]
    put(store, service("b/other"))
    for one in many:
        put(store, one)

    assert [one.name for one in many[:16]] == store.take_dirty(5)[:16]


def test_the_node_is_kept_until_it_goes():
    store = Store("node-a")
    put(store, Node("node-a", zone="z1"))
    assert store.node == Node("node-a", zone="z1")
    store.apply(Listed(Kind.NODE, frozenset()))

    assert store.node is None


def test_nodes_other_than_its_own_are_passed_over():
    store = Store("node-a")
    put(store, Node("node-a"))
    put(store, Node("node-b"))

    assert store.node == Node("node-a")
