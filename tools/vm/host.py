"""The host's own kernel, in fresh namespaces: no VM at all."""

from __future__ import annotations

import os
import subprocess

from tools.vm import backend, guest
from tools.vm.errors import Unavailable

PROBE = "modprobe --quiet ip_vs; [ -e /proc/net/ip_vs ] && ip link add probe type dummy"

FAR_LINK = "ipvs-agent9"
"""The other end of the machine's link, in the namespace that `--network` names."""


class Host:
    """Namespaces of the kernel that this program runs on."""

    name = "host"
    namespaces = ("--net", "--uts", "--ipc")

    def require(self) -> None:
        """Raise Unavailable unless we may make namespaces whose kernel has IPVS and dummy links."""
        if os.geteuid() != 0:
            raise Unavailable("backend host: making network namespaces needs root")
        probe = subprocess.run(["unshare", "--net", "sh", "-c", PROBE], capture_output=True, check=False)
        if probe.returncode != 0:
            raise Unavailable(
                "backend host: this kernel lacks ip_vs or dummy (or may not load them); use --backend uml"
            )

    def setup(self, request: guest.Request) -> str:  # noqa: ARG002 - the same for every request
        """Return nothing: namespaces need no more than every machine does."""
        return ""

    def launch(self, request: guest.Request, folder: guest.Folder) -> backend.Launch:
        """Start the init script itself, after the link to the outside, which needs the host's /run/netns."""
        link = _link_to(request.network) if request.network else ""
        return backend.Launch(f"{link}exec bash {guest.quote(folder.init)}")


def _link_to(network: str) -> str:
    # The namespace's tap device has the gateway's address and the /30; the route to our one address beats it.
    return f"""\
ip link add {guest.GUEST_LINK} type veth peer name {FAR_LINK} netns {network}
ip -n {network} link set {FAR_LINK} up
ip -n {network} route add {guest.GUEST_ADDRESS}/32 dev {FAR_LINK}
"""
