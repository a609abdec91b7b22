"""The agent's own configuration file, and the options that say the same."""

from __future__ import annotations

import argparse

import msgspec
import pytest

from ipvs_agent.cli import configuration
from ipvs_agent.config import AgentConfig, Lists, read_agent_configuration
from ipvs_agent.errors import ConfigError
from ipvs_agent.model import VipMode

HEAD = "apiVersion: ipvs-agent.io/v1alpha1\nkind: IpvsAgentConfiguration\n"
KUBE_PROXY = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


@pytest.fixture
def file(tmp_path):
    """Return a function that writes the file."""

    def write(text):
        path = tmp_path / "agent.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", {}, id="nothing said"),
        pytest.param("drainTimeout: null", {}, id="null"),
        pytest.param("drainTimeout: 1m30s", {"drain_seconds": 90.0}, id="drainTimeout"),
        pytest.param("vipMode: routes", {"vip_mode": VipMode.ROUTES}, id="vipMode"),
        pytest.param("lists: compressed", {"lists": Lists.COMPRESSED}, id="lists"),
        pytest.param("drainTimeout: 0s", {"drain_seconds": 0.0}, id="no drain at all"),
        pytest.param("drainTimeout: 168h", {"drain_seconds": 7 * 86400.0}, id="the longest drain"),
        pytest.param("drainTimeout: 5s\n<<: {drainTimeout: 9s}", {"drain_seconds": 5.0}, id="one merged"),
    ],
)
def test_fields(file, text, expected):
    """What the file says is added to what kube-proxy's file says."""
    config = AgentConfig(scheduler="wlc")

    assert msgspec.structs.replace(config, **expected) == read_agent_configuration(file(HEAD + text), config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            HEAD + "drainTimeout: 5",
            "line 3: drainTimeout: expected str, got int",
            id="a number",
        ),
        pytest.param(
            HEAD + "drainTimeout: 5d",
            "line 3: drainTimeout: '5d' is not a duration such as 30s or 1m30s",
            id="no duration",
        ),
        pytest.param(HEAD + "drainTimeout: -5s", "line 3: drainTimeout: '-5s' is negative", id="negative"),
        pytest.param(
            HEAD + "draintimeout: 5s",
            "line 3: draintimeout: is no field of this file; did you mean drainTimeout?",
            id="a slip",
        ),
        pytest.param(
            HEAD + "vipMode: route",
            "line 3: vipMode: 'route' is none of addresses, routes, auto",
            id="no mode",
        ),
        pytest.param(
            HEAD + "lists: packed",
            "line 3: lists: 'packed' is none of streamed, compressed",
            id="no kind of lists",
        ),
        pytest.param(HEAD + "ipvs: {}", "line 3: ipvs: is no field of this file", id="a field of kube-proxy"),
        pytest.param(
            KUBE_PROXY,
            "line 1: apiVersion: 'kubeproxy.config.k8s.io/v1alpha1' must be ipvs-agent.io/v1alpha1",
            id="the file of kube-proxy",
        ),
        pytest.param(
            HEAD.replace("Ipvs", "IPVS"),
            "line 2: kind: 'IPVSAgentConfiguration' must be IpvsAgentConfiguration",
            id="another kind",
        ),
        pytest.param(
            "", "one document is needed, of kind IpvsAgentConfiguration, and there are 0", id="empty"
        ),
        pytest.param("- 1", "line 1: object: expected object, got array", id="a list"),
        pytest.param(
            HEAD + "vipMode: auto\nvipMode: routes", "line 4: vipMode: is there twice", id="a field twice"
        ),
        pytest.param(
            '{"apiVersion": "ipvs-agent.io/v1alpha1", "kind": "IpvsAgentConfiguration",\n'
            '"drainTimeout": "5s",\n"drainTimeout": "5s"}',
            "line 3: drainTimeout: is there twice",
            id="a field twice in JSON",
        ),
        pytest.param(
            HEAD + "drainTimeout: 168h1s",
            "line 3: drainTimeout: '168h1s' is longer than 168h",
            id="a drain without measure",
        ),
        pytest.param(
            HEAD + f"drainTimeout: {'9' * 400}h",
            f"line 3: drainTimeout: '{'9' * 12}...{'9' * 12}h' is longer than 168h",
            id="a duration without end",
        ),
        pytest.param(
            HEAD + f"vipMode: {'a' * 10000}",
            f"line 3: vipMode: '{'a' * 76}... is none of addresses, routes, auto",
            id="a long value",
        ),
        pytest.param(
            HEAD + '"\\e[31m": 1', r"line 3: '\x1b[31m': is no field of this file", id="an escape sequence"
        ),
        pytest.param(
            HEAD + "a" * 500 + ": 1",
            f"line 3: '{'a' * 76}...: is no field of this file",
            id="a long name",
        ),
        pytest.param(
            HEAD + "ipvs.scheduler: rr",
            "line 3: ipvs.scheduler: is no field of this file",
            id="a name like a path",
        ),
        pytest.param(
            HEAD + "1: x", "line 3: 1: is not text, so it is no field of this file", id="a number as name"
        ),
        pytest.param(
            HEAD + "null: x", "line 3: null: is not text, so it is no field of this file", id="null as name"
        ),
    ],
)
def test_refused_files(file, text, message):
    """What cannot be used is refused by file, line, field and reason."""
    path = file(text)

    with pytest.raises(ConfigError) as caught:
        read_agent_configuration(path, AgentConfig())

    assert f"{path}: {message}" == str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file or directory"):
        read_agent_configuration(tmp_path / "none.yaml", AgentConfig())


def parse(*words):
    parser = argparse.ArgumentParser()
    configuration.add_options(parser)
    return parser.parse_args([str(word) for word in words])


def test_without_options_all_is_as_by_default():
    assert (AgentConfig(), ()) == configuration.read(parse())


def test_both_files_are_read(file, tmp_path):
    kube_proxy = tmp_path / "config.conf"
    kube_proxy.write_text(KUBE_PROXY + "ipvs: {scheduler: sh, udpTimeout: 5s}")

    arguments = parse("--config", kube_proxy, "--agent-config", file(HEAD + "drainTimeout: 5s"))

    expected = AgentConfig(scheduler="sh", drain_seconds=5.0)
    assert (expected, ("ipvs.udpTimeout",)) == configuration.read(arguments)


def test_options_are_stronger_than_the_file(file):
    path = file(HEAD + "drainTimeout: 5s\nvipMode: routes")
    words = ("--drain-timeout", "0s", "--vip-mode", "addresses")

    config, _ = configuration.read(parse("--agent-config", path, *words))

    assert AgentConfig(drain_seconds=0.0, vip_mode=VipMode.ADDRESSES) == config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--agent-config", ""], "--agent-config: the path is empty", id="no path"),
        pytest.param(["--vip-mode", "route"], "--vip-mode: invalid choice: 'route'", id="no mode"),
        pytest.param(["--drain-timeout", "5"], "--drain-timeout: '5' is not a duration", id="no unit"),
        pytest.param(["--drain-timeout=-5s"], "--drain-timeout: '-5s' is negative", id="negative"),
        pytest.param(
            ["--drain-timeout", "200h"], "--drain-timeout: '200h' is longer than 168h", id="without measure"
        ),
    ],
)
def test_wrong_options(capsys, words, message):
    with pytest.raises(SystemExit) as caught:
        parse(*words)

    assert caught.value.code == 2
    assert f"argument {message}" in capsys.readouterr().err
