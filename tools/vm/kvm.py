"""Whether KVM works here: asked once for each boot of the host.

/dev/kvm may exist and yet stop at its first instructions (nested virtualisation), so the only proof is a
kernel that boots. Without a root file system it panics, which with `panic=-1` ends qemu: quick and certain.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tools.vm import cache

DEVICE = Path("/dev/kvm")
LIMIT = 5.0
"""Seconds for a boot that takes less than one where KVM works."""

ARGUMENTS = ("-accel", "kvm", "-cpu", "host")


def works(kernel: Path) -> bool:
    """Return whether a kernel boots with KVM, from the cache if that was tried since the host's boot."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    answer = cache.folder() / f"kvm-{boot}"
    if not answer.exists():
        cache.write(answer, b"yes" if _boots(kernel) else b"no")
    return answer.read_bytes() == b"yes"


def _boots(kernel: Path) -> bool:
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return False
    command = ["qemu-system-x86_64", *ARGUMENTS, "-nodefaults", "-no-user-config", "-no-reboot", "-m", "256M"]
    command += ["-display", "none", "-serial", "stdio", "-kernel", str(kernel)]
    command += ["-append", "console=ttyS0 panic=-1"]
    try:
        boot = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return boot.returncode == 0 and b"Linux version" in boot.stdout
