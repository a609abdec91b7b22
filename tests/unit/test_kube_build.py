"""Which programs a real API server for tests is made of."""

from __future__ import annotations

import shutil

import pytest

from tests.kube import build


def etcd(folder, version):
    path = folder / "etcd"
    folder.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\necho etcd Version: {version}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with an etcd of Debian 12, and what would be built for it."""
    built = tmp_path / "built"
    monkeypatch.setattr(build, "_DEBIAN_ETCD", etcd(tmp_path / "debian", "3.4.23"))
    monkeypatch.setattr(build, "_built", lambda name: built / name)
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("assets", "watch_list", "expected"),
    [
        pytest.param(None, True, ("built/etcd", True), id="Debian's is too old"),
        pytest.param(None, False, ("debian/etcd", False), id="Debian's will do"),
        pytest.param("3.6.5", True, ("assets/etcd", True), id="assets"),
        pytest.param("3.6.5", False, ("assets/etcd", True), id="assets, where Debian's would do"),
        pytest.param("3.4.23", True, ("built/etcd", True), id="those of the assets are too old"),
        pytest.param("3.4.23", False, ("assets/etcd", False), id="old assets will do"),
    ],
)
def test_which_etcd(machine, monkeypatch, assets, watch_list, expected):
    if assets is not None:
        etcd(machine / "assets", assets)
        monkeypatch.setenv("KUBEBUILDER_ASSETS", str(machine / "assets"))
    path, has_watch_list = build.etcd(watch_list=watch_list)

    assert expected == (str(path.relative_to(machine)), has_watch_list)


def test_programs_of_the_assets_come_first_and_others_are_built(machine, monkeypatch):
    etcd(machine / "assets", "3.6.5").rename(machine / "assets" / "kube-apiserver")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(machine / "assets"))

    assert machine / "assets" / "kube-apiserver" == build.program("kube-apiserver")
    assert machine / "built" / "kube-proxy" == build.program("kube-proxy")


@pytest.mark.parametrize("name", ["go.mod", "go.sum"])
def test_other_modules_are_other_programs(tmp_path, monkeypatch, name):
    for each in ("go.mod", "go.sum"):
        shutil.copy(build._HERE / each, tmp_path)
    before = build._modules()
    monkeypatch.setattr(build, "_HERE", tmp_path)
    assert before == build._modules()
    (tmp_path / name).write_text((tmp_path / name).read_text() + "\n")

    assert before != build._modules()
