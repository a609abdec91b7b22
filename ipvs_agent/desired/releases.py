"""What is different on older kernels."""

from __future__ import annotations

import re

_FIRST_WITH_REUSE_MODE = (4, 1)
_FIRST_WITHOUT_DROPS = (5, 9)


def drops_reused_ports(release: str) -> bool:
    """Tell whether a kernel has clients wait a second whose ports were used a moment ago (k/k#70747, #93297).

    With net/ipv4/vs/conn_reuse_mode at 1, its default, it drops the first packet of such a connection where
    conntrack knows the port from before. 5.9 does not, and is better off with the default.
    """
    match = re.match(r"(\d+)\.(\d+)", release)
    if match is None:
        return False
    return _FIRST_WITH_REUSE_MODE <= (int(match[1]), int(match[2])) < _FIRST_WITHOUT_DROPS
