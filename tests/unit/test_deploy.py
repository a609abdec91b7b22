"""What deploy/ and the Dockerfile name exists; tests/kube asks a real API server about the rest."""

from __future__ import annotations

import argparse
import configparser
import json
import shlex
from pathlib import Path

import pytest
import yaml

from ipvs_agent.cli import run
from ipvs_agent.config import read_kube_proxy_configuration
from ipvs_agent.serve import events, notes

ROOT = Path(__file__).parents[2]


def instructions():
    """Return the Dockerfile's instructions as (keyword, rest)."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip() and line[0] != "#"]


def resources():
    kustomization = yaml.safe_load((ROOT / "deploy" / "kustomization.yaml").read_text())
    files = [ROOT / "deploy" / name for name in kustomization["resources"]]
    return [thing for file in files for thing in yaml.safe_load_all(file.read_text())]


def one(kind):
    return next(thing for thing in resources() if thing["kind"] == kind)


def test_the_image_copies_only_what_is_there():
    copied = [
        source
        for keyword, rest in instructions()
        if keyword == "COPY"
        for source in [word for word in shlex.split(rest) if not word.startswith("--")][:-1]
    ]

    assert copied
    assert [] == [source for source in copied if not (ROOT / source).exists()]


def test_the_image_runs_the_console_script():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    scripts = [line.split(" = ")[0] for line in setup["options.entry_points"]["console_scripts"].split("\n")]

    entry = next(json.loads(rest) for keyword, rest in instructions() if keyword == "ENTRYPOINT")

    assert len(entry) == 1
    assert entry[0] in scripts


def test_the_configuration_is_one_that_the_agent_reads(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(one("ConfigMap")["data"]["config.yaml"])

    config, _ = read_kube_proxy_configuration(path)

    assert "rr" == config.scheduler


@pytest.mark.parametrize("kind", ["ConfigMap", "ServiceAccount"])
def test_what_the_pods_refer_to_is_there(kind):
    pod = one("DaemonSet")["spec"]["template"]["spec"]
    configmaps = {volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume}
    named = {"ConfigMap": configmaps, "ServiceAccount": {pod["serviceAccountName"]}}

    assert {one(kind)["metadata"]["name"]} == named[kind]


def test_every_volume_is_mounted_and_every_mount_has_its_volume():
    pod = one("DaemonSet")["spec"]["template"]["spec"]
    mounts = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}

    assert {volume["name"] for volume in pod["volumes"]} == mounts


def test_the_notes_have_a_folder_that_can_be_written():
    container = one("DaemonSet")["spec"]["template"]["spec"]["containers"][0]
    folders = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}

    assert str(notes.PATH.parent) in folders


def test_the_agent_may_make_events_and_nothing_else():
    changes = [
        rule for rule in one("ClusterRole")["rules"] if not {"list", "watch"}.issuperset(rule["verbs"])
    ]

    assert [{"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]}] == changes
    assert "events.k8s.io" in events.PATH


def test_the_agent_takes_the_arguments_of_the_pods():
    parser = argparse.ArgumentParser()
    run.register(parser.add_subparsers())
    container = one("DaemonSet")["spec"]["template"]["spec"]["containers"][0]

    arguments = parser.parse_args(container["args"])

    assert "$(NODE_NAME)" == arguments.node_name
