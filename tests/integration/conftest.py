"""Tests that need root and a kernel with IPVS, ipset and a dummy device; each has a network namespace."""

from __future__ import annotations

import socket
import subprocess
import uuid

import pytest

from tools.lab import talk


@pytest.fixture
def bare_namespace():
    """Yield the name of a network namespace in which not even the loopback device is up."""
    socket.socket(socket.AF_INET6).close()  # loads IPv6 where it is a module, before the namespace is made
    name = f"ipvs-agent-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture
def namespace(bare_namespace):
    """Yield the name of a network namespace that is the test thread's own, with its loopback device up."""
    with talk.inside(bare_namespace):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield bare_namespace
