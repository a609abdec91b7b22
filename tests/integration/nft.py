"""Whether this kernel's nftables takes rules: user-mode Linux has the module, but no family for it."""

from __future__ import annotations

import os

HAS_NFTABLES = os.environ.get("IPVS_AGENT_VM") != "uml"
