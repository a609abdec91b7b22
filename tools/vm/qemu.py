"""QEMU: Debian's cloud kernel on two CPUs, with the host's root file system by virtiofs.

With KVM where that works, else emulated by TCG, where programs run about five times slower.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

from tools.vm import backend, guest, kvm
from tools.vm.errors import Unavailable

QEMU = "qemu-system-x86_64"
BUSYBOX = Path("/bin/busybox")
CPUS = 2

# Debian 12 has virtiofsd in qemu-system-common, Debian 13 in a package of its own.
VIRTIOFSD = (Path("/usr/lib/qemu/virtiofsd"), Path("/usr/libexec/virtiofsd"))

EMULATION = ("-accel", "tcg,thread=multi", "-cpu", "max")

BOOT_MODULES = ("virtio_pci", "virtiofs", "virtio_net")

RAMDISK_INIT = """\
#!/bin/busybox sh
set -e
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in $(/bin/busybox cat /modules/order); do
    /bin/busybox insmod /modules/$module
done
/bin/busybox mount -t virtiofs rootfs /root
/bin/busybox mount -t devtmpfs devtmpfs /root/dev
exec /bin/busybox switch_root /root {init}
"""


class Qemu:
    """A distribution's kernel on virtual hardware."""

    name = "qemu"
    namespaces = ()

    def require(self) -> None:
        """Raise Unavailable when qemu, its file server, a kernel or what makes a ramdisk is missing."""
        missing = [program for program in (QEMU, "cpio", "modprobe") if shutil.which(program) is None]
        missing += [str(BUSYBOX)] * (not BUSYBOX.exists())
        missing += ["virtiofsd"] * (not _virtiofsd())
        missing += ["a cloud kernel in /boot"] * (not _kernels())
        if missing:
            raise Unavailable(f"backend qemu: {', '.join(missing)} not found; run: tools/install qemu")
        if os.geteuid() != 0:
            raise Unavailable(
                "backend qemu: virtiofsd serves the host's files with our rights; run it as root"
            )

    def setup(self, request: guest.Request) -> str:
        """Give the link, if there is one, the name that it has in every machine."""
        return f"ip link set eth0 name {guest.GUEST_LINK}" if request.network else ""

    def launch(self, request: guest.Request, folder: guest.Folder) -> backend.Launch:
        """Start the file server in the background, and qemu."""
        kernel = _kernels()[-1]
        accelerator = kvm.ARGUMENTS if kvm.works(kernel) else EMULATION
        _make_ramdisk(_release(kernel), folder)
        # The socket listens before either starts, so that neither has to wait for the other.
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder.path / "virtiofs"))
        listener.listen(1)
        number = listener.fileno()
        server = [str(_virtiofsd()), f"--fd={number}", "-o", "source=/,cache=always,sandbox=chroot"]
        machine = qemu_command(request, folder, kernel, accelerator)
        enter = ["nsenter", f"--net=/run/netns/{request.network}"] if request.network else []
        # qemu must not hold the listener: its connection would then outlive a server that failed.
        script = f"{shlex.join(server)} &\nexec {shlex.join([*enter, *machine])} {number}<&-"
        return backend.Launch(script, listener)


def qemu_command(
    request: guest.Request, folder: guest.Folder, kernel: Path, accelerator: tuple[str, ...]
) -> list[str]:
    """Return the command line of qemu."""
    tap = f"tap,id=link,ifname={guest.GATEWAY_LINK},script=no,downscript=no"
    link = ["-netdev", tap, "-device", "virtio-net-pci,netdev=link"] if request.network else []
    return [
        QEMU,
        *accelerator,
        *("-smp", str(CPUS)),
        *("-m", request.memory),
        # virtiofs reads and writes the machine's memory, so that has to be shared.
        *("-object", f"memory-backend-memfd,id=memory,size={request.memory},share=on"),
        *("-numa", "node,memdev=memory"),
        *("-chardev", f"socket,id=files,path={folder.path}/virtiofs"),
        *("-device", "vhost-user-fs-pci,chardev=files,tag=rootfs"),
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none", "-serial", "stdio"),
        *("-kernel", str(kernel)),
        *("-initrd", f"{folder.path}/ramdisk.cpio"),
        *("-append", "console=ttyS0 quiet panic=-1"),
        *link,
    ]


def by_version(names: list[str]) -> list[str]:
    """Sort names by the numbers in them: 6.1.0-9 comes before 6.1.0-10."""
    return sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _kernels() -> list[Path]:
    names = [path.name for path in Path("/boot").glob("vmlinuz-*-cloud-*")]
    return [Path("/boot", name) for name in by_version(names)]


def _release(kernel: Path) -> str:
    return kernel.name.removeprefix("vmlinuz-")


def _virtiofsd() -> Path | None:
    return next((path for path in VIRTIOFSD if path.exists()), None)


def _make_ramdisk(release: str, folder: guest.Folder) -> None:
    root = folder.path / "ramdisk"
    for name in ("bin", "dev", "modules", "proc", "root"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin")
    modules = _modules(release)
    for module in modules:
        shutil.copy(module, root / "modules")
    (root / "modules" / "order").write_text("\n".join(module.name for module in modules))
    (root / "init").write_text(RAMDISK_INIT.format(init=guest.quote(folder.init)))
    (root / "init").chmod(0o755)
    files = "\n".join(str(path.relative_to(root)) for path in [root, *root.rglob("*")])
    archive = subprocess.run(
        ["cpio", "--quiet", "--create", "--format=newc"],
        cwd=root,
        input=files.encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    (folder.path / "ramdisk.cpio").write_bytes(archive.stdout)


def _modules(release: str) -> list[Path]:
    command = ["modprobe", "--set-version", release, "--all", "--show-depends", *BOOT_MODULES]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # Lines are "insmod PATH" or, of what the kernel has built in, "builtin NAME"; dependencies come first.
    paths = [line.split()[1] for line in listing.splitlines() if line.startswith("insmod ")]
    return [Path(path) for path in dict.fromkeys(paths)]
