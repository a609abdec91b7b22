"""Claims: the oldest Service has a virtual server, and what is shared stays until its last holder leaves."""

from __future__ import annotations

import random

import msgspec

from ipvs_agent.desired.compile import NodeView, compile_service
from ipvs_agent.model import VirtualServerKey
from ipvs_agent.reconcile.claims import FOREIGN, LINGERING, Claims
from ipvs_agent.schedulers.annotations import Choice
from ipvs_agent.testing.builders import address, endpoint, endpoint_slice, key, name, port, service

NODE = NodeView(name="node-a", scheduler=Choice("rr", 0))
SHARED = "198.51.100.7"


def plan(text, created="2026-01-01T00:00:00Z", pod="10.244.1.11", **fields):
    asked = port(f"10.96.0.{len(text)}", external_ips=[SHARED], **fields)
    return compile_service(
        service(text, asked, created=created), [endpoint_slice(text, [endpoint(pod)])], NODE
    )


OLD, YOUNG = plan("a/old", "2026-01-01T00:00:00Z"), plan("a/young", "2026-02-02T00:00:00Z", "10.244.1.12")
CONTESTED = key(f"{SHARED}:80")


def claimed(*plans):
    claims = Claims()
    for one in plans:
        claims.replace(one.owner.name, one)
    return claims


def keys(claims):
    """All that is claimed."""
    return {*claims._frontends, *claims._holders._counts}


def test_the_oldest_wins_in_any_order():
    for order in ((OLD, YOUNG), (YOUNG, OLD)):
        claims = claimed(*order)

        assert OLD.owner == claims.owner(CONTESTED)
        assert [(CONTESTED, OLD.owner)] == [
            (contest.key, contest.winner) for contest in claims.contests(name("a/young"))
        ]
        assert [] == claims.contests(name("a/old"))


def test_the_younger_takes_over_when_the_older_goes():
    claims = claimed(OLD, YOUNG)
    changed = claims.replace(name("a/old"), None)

    assert CONTESTED in changed
    assert YOUNG.owner == claims.owner(CONTESTED)
    assert claims.wanted(address(SHARED))
    assert address(SHARED) not in changed


def test_a_new_owner_is_a_change_where_all_else_is_alike():
    alike = msgspec.structs.replace(OLD, owner=YOUNG.owner)
    claims = claimed(alike)

    assert {one.virtual_server.key for one in OLD.frontends} == claims.replace(name("a/old"), OLD).keys()
    assert OLD.owner == claims.owner(CONTESTED)
    assert CONTESTED in claims.replace(name("a/old"), None)
    assert YOUNG.owner == claims.owner(CONTESTED)


def test_a_claimant_that_does_not_win_is_no_change():
    claims = claimed(OLD)

    assert {} == claims.replace(name("a/young"), msgspec.structs.replace(OLD, owner=YOUNG.owner))
    assert {} == claims.replace(name("a/young"), None)


def test_a_shared_vip_goes_with_its_last_port():
    two = compile_service(service("a/two", port(number=80), port(number=443, name="s")), [], NODE)
    one = compile_service(service("a/two", port(number=80)), [], NODE)
    claims = claimed(two)

    assert address("10.96.0.80") not in claims.replace(name("a/two"), one)
    assert address("10.96.0.80") in claims.replace(name("a/two"), None)
    assert not claims.wanted(address("10.96.0.80"))


def test_a_virtual_server_of_others_is_nobodys_here():
    claims = claimed(OLD)
    changed = claims.claim_for_nobody(CONTESTED, FOREIGN, None)

    assert claims.frontend(CONTESTED) is None
    assert {CONTESTED, address(SHARED)} <= changed.keys()
    back = {}
    claims.release(CONTESTED, FOREIGN, back)
    assert OLD.owner == claims.owner(CONTESTED)
    assert changed.keys() == back.keys()


def test_what_lingers_yields_to_any_service():
    frontend = next(one for one in OLD.frontends if one.virtual_server.key == CONTESTED)
    claims = Claims()
    claims.claim_for_nobody(CONTESTED, LINGERING, frontend)
    assert LINGERING == claims.owner(CONTESTED)
    claims.replace(name("a/young"), YOUNG)

    assert YOUNG.owner == claims.owner(CONTESTED)


def test_a_service_made_anew_under_its_name_leaves_no_claim_behind():
    claims = claimed(OLD)
    claims.replace(name("a/old"), plan("a/old", "2026-03-03T00:00:00Z"))
    claims.replace(name("a/old"), None)

    assert set() == keys(claims)


def test_nothing_is_reported_that_did_not_change():
    claims = claimed(OLD)

    assert {} == claims.replace(name("a/old"), plan("a/old", "2026-01-01T00:00:00Z"))


def test_any_history_ends_in_the_state_that_its_last_plans_make():
    rng = random.Random(7)
    names = ["a/one", "a/three", "a/fiver", "a/sevenxx"]
    for _ in range(50):
        claims, last = Claims(), {}
        for _ in range(30):
            text = rng.choice(names)
            one = rng.choice(
                [None, plan(text, rng.choice(["2026-01-01", "2026-02-02"]), number=rng.choice([80, 81]))]
            )
            claims.replace(name(text), one)
            last[text] = one
        fresh = claimed(*(one for one in last.values() if one is not None))

        assert keys(fresh) == keys(claims)
        servers = [each for each in keys(fresh) if isinstance(each, VirtualServerKey)]
        assert [fresh.owner(each) for each in servers] == [claims.owner(each) for each in servers]
