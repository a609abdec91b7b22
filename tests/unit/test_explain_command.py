"""ipvs-agent explain from the command line, on the manifests of the examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipvs_agent import cli
from ipvs_agent.cli import explain
from ipvs_agent.kernel.iptables import NodeIptables

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


@pytest.fixture(autouse=True)
def node(monkeypatch, tmp_path):
    """A node with both families on which no agent runs."""
    monkeypatch.setattr(NodeIptables, "switched_off", lambda _: frozenset())
    monkeypatch.setattr(explain.notes_file, "PATH", tmp_path / "notes")


def run(*words, manifests=EXAMPLES / "manifests"):
    return cli.main(["explain", *words, "--manifests", str(manifests), "--node-name", "node-a"])


def test_a_service_of_the_examples(capsys):
    assert 0 == run("kube-system/dns")

    out = capsys.readouterr().out
    assert out.startswith("Service kube-system/dns on node node-a\n")
    assert "port dns (UDP, IPv4)" in out
    assert "port dns-tcp (TCP, IPv4)" in out
    assert "affinity    by client address, for 60 s" in out


def test_one_port_of_it(capsys):
    assert 0 == run("kube-system/dns:dns-tcp")

    assert "port dns (UDP" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "word"),
    [
        pytest.param(
            "no Service kube-system/dnss asks anything of a node", "kube-system/dnss", id="no Service"
        ),
        pytest.param("has no port 'http'; its ports: dns, dns-tcp", "kube-system/dns:http", id="no port"),
    ],
)
def test_what_is_not_there(capsys, said, word):
    assert 1 == run(word)

    assert said in capsys.readouterr().err


def test_a_service_that_cannot_be_read(capsys, tmp_path):
    (tmp_path / "web.yaml").write_text(
        "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: nonsense}"
    )

    assert 1 == run("shop/web", manifests=tmp_path)

    assert "Service shop/web" in capsys.readouterr().err


def test_a_source_that_cannot_be_read(capsys, tmp_path):
    assert 1 == run("shop/web", manifests=tmp_path / "absent")

    assert str(tmp_path / "absent") in capsys.readouterr().err


@pytest.mark.parametrize("word", ["web", "/web", "shop/", "shop/web:", "a/b/c"])
def test_a_word_that_names_no_service(capsys, word):
    with pytest.raises(SystemExit) as ended:
        run(word)

    assert 2 == ended.value.code
    assert "is not NAMESPACE/NAME" in capsys.readouterr().err
