"""Makes `python3 -m tools.vm` work."""

from __future__ import annotations

import sys

from tools.vm import cli

sys.exit(cli.main())
