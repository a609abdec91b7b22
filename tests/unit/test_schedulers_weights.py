"""Which weights a Service gives its endpoints, and how they fit a table."""

from __future__ import annotations

import random

import pytest

from ipvs_agent.schedulers.weights import Weights, fit, parse_weights
from ipvs_agent.testing.builders import endpoint

HERE = endpoint("10.244.1.11", node="node-a", zone="z1")
NEAR = endpoint("10.244.3.11", node="node-c", zone="z1")
FAR = endpoint("10.244.2.11", node="node-b", zone="z2")
HINTED = endpoint("10.244.4.11", node="node-d", zone="z3", zone_hints=("z1",))
MEANT = endpoint("10.244.4.12", node="node-d", zone="z3", node_hints=("node-a",))
NOWHERE = endpoint("10.244.5.11")
EVERY = (HERE, NEAR, FAR, HINTED, MEANT, NOWHERE)


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        pytest.param([10, 3, 1, 1, 1, 1], "local=10,zone=3,other=1", id="local before remote"),
        pytest.param([10, 3, 1, 1, 1, 1], " local = 10 , zone=3", id="blanks, and 1 where nothing is said"),
        pytest.param([5, 5, 0, 7, 7, 7], "zone:z1=5,zone:z2=0,other=7", id="by zone"),
        pytest.param([1, 9, 65535, 1, 1, 1], "node:node-b=65535,node:node-c=9", id="by node"),
        pytest.param([0, 0, 0, 20, 20, 0], "hinted=20,other=0", id="by hints"),
        pytest.param([2, 4, 1, 1, 1, 1], "node:node-a=2,local=3,zone=4", id="a node before here"),
        pytest.param([3, 6, 1, 5, 5, 1], "local=3,hinted=5,zone:z1=6,zone:z3=7", id="then hints, then zones"),
        pytest.param([6, 6, 1, 1, 1, 1], "zone:z1=6,zone=7", id="a zone by its name before this one"),
    ],
)
def test_the_nearest_word_counts(expected, text):
    weights = parse_weights(text)

    assert expected == [weights.of(one, "node-a", "z1") for one in EVERY]


def test_on_a_node_without_a_zone_nothing_is_in_its_zone():
    weights = parse_weights("zone=5,hinted=6")

    assert [1] * 6 == [weights.of(one, "node-x", "") for one in EVERY]


USE = "use node:NAME, local, hinted, zone:NAME, zone or other"
MISSING = "a weight is missing; write one such as local=10,zone=3,other=1"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        pytest.param(MISSING, "", id="empty"),
        pytest.param(MISSING, "local=1,", id="comma at the end"),
        pytest.param("'locl' is not where an endpoint can be; did you mean local?", "locl=1"),
        pytest.param("'Zone' is not where an endpoint can be; did you mean zone?", "Zone=1"),
        pytest.param(f"'5' is not where an endpoint can be; {USE}", "5"),
        pytest.param(f"'' is not where an endpoint can be; {USE}", "=5"),
        pytest.param(f"'$(reboot)' is not where an endpoint can be; {USE}", "$(reboot)=5"),
        pytest.param(f"'{24 * 'x'}'... is not where an endpoint can be; {USE}", 10240 * "x", id="10 kB"),
        pytest.param("'local:a' is local with a name, and it has none", "local:a=1"),
        pytest.param("'' cannot be the name of a zone", "zone:=1"),
        pytest.param("'a b' cannot be the name of a node", "node:a b=1"),
        pytest.param("'\\x1b[2J' cannot be the name of a zone", "zone:\x1b[2J=1"),
        pytest.param("node needs a name, as in node:NAME=1; for this node use local", "node=1"),
        pytest.param("'zone' is there twice", "zone=1,zone=2"),
        pytest.param("'zone:a' is there twice", "zone:a=1,zone:a=1"),
        pytest.param("the weight '' of 'local' is not a number from 0 to 65535", "local"),
        pytest.param("the weight '-1' of 'zone' is not a number from 0 to 65535", "zone=-1"),
        pytest.param("the weight '65536' of 'zone:a' is not a number from 0 to 65535", "zone:a=65536"),
        pytest.param("the weight '1.5' of 'other' is not a number from 0 to 65535", "other=1.5"),
        pytest.param("the weight '\\u0665' of 'other' is not a number from 0 to 65535", "other=\u0665"),
        pytest.param("the weight '3=4' of 'other' is not a number from 0 to 65535", "other=3=4"),
        pytest.param(
            f"the weight '{24 * '9'}'... of 'other' is not a number from 0 to 65535", f"other={5000 * '9'}"
        ),
    ],
)
def test_what_makes_no_sense_is_said(reason, text):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the next line has the whole text
        parse_weights(text)

    assert reason == str(caught.value)


def test_ten_kilobytes_of_nodes_are_taken():
    weights = parse_weights(",".join(f"node:node-{number}=7" for number in range(600)))

    assert Weights(of_nodes={f"node-{number}": 7 for number in range(600)}) == weights


@pytest.mark.parametrize(
    ("expected", "weights"),
    [
        pytest.param([1, 2, 3], [1, 2, 3], id="they fit"),
        pytest.param([85, 85, 85], [200, 200, 200], id="in proportion"),
        pytest.param([254, 1, 1], [65535, 1, 1], id="none is lost"),
        pytest.param([127, 0, 127], [300, 0, 300], id="none takes a place too"),
        pytest.param([256], [65535], id="alone"),
        pytest.param([0, 0], [0, 0], id="nobody"),
    ],
)
def test_weights_are_made_to_fit_a_table(expected, weights):
    assert expected == fit(weights, 256)


def test_whatever_the_weights_everybody_has_a_place():
    rng = random.Random(3)
    for _ in range(300):
        weights = [rng.choice((0, 1, 2, 50, 200, 65535)) for _ in range(rng.randrange(1, 257))]
        fitting = fit(weights, 256)

        assert sum(max(1, weight) for weight in fitting) <= 256
        assert [weight == 0 for weight in weights] == [weight == 0 for weight in fitting]
        pairs = sorted(zip(weights, fitting, strict=True))
        assert [weight for _, weight in pairs] == sorted(fitting)
