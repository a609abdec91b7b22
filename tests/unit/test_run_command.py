from __future__ import annotations

import subprocess
import sys

import pytest

from ipvs_agent import cli, logs


@pytest.fixture(autouse=True)
def logs_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(logs, "set_up", lambda *, verbose: None)


@pytest.mark.parametrize("option", ["--config", "--manifests", "--kubeconfig"])
def test_an_empty_path_is_wrong_usage(capsys, option):
    """Taken as a path it would be the current folder."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", option, ""])

    assert caught.value.code == 2
    assert f"argument {option}: the path is empty" in capsys.readouterr().err


def test_what_the_configuration_file_says_wrong_is_told_with_file_and_line(tmp_path, capsys):
    path = tmp_path / "config.conf"
    path.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nipvs: {scheduler: rrr}\n"
    )

    assert cli.main(["run", "--config", str(path)]) == 2

    message = f"{path}: line 3: ipvs.scheduler: there is no scheduler 'rrr'; did you mean rr?"
    assert f"ipvs-agent: {message}\n" == capsys.readouterr().err


def test_a_name_that_no_node_can_have_is_wrong_usage(capsys):
    assert cli.main(["run", "--node-name", "a b"]) == 2

    assert "--node-name: 'a b' cannot be the name of a Node" in capsys.readouterr().err


def test_a_run_on_manifests_imports_only_what_it_needs():
    """A start does not wait for other subcommands and sources, nor for what explains mistakes."""
    program = """if True:
        import sys
        from ipvs_agent import cli
        cli.main(["run", "--node-name", "not a name"])
        print(*sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())

    assert {"ipvs_agent.cli.run", "ipvs_agent.sources.manifests"} <= imported
    assert set() == imported & {"ipvs_agent.cli.status", "kubernetes", "urllib3", "yaml", "difflib"}
