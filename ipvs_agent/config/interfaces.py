"""Names of network interfaces, as far as a rule of iptables can match them."""

from __future__ import annotations

import re

_LONGEST = 15
# The kernel refuses blanks, slashes and colons (dev_valid_name), and takes % for a pattern to be numbered. To
# iptables ! is a negation, * is refused, and a + at the end is a prefix; quotes and backslashes change what
# iptables-restore reads.
_REFUSED = re.compile(r"""[^!-~]|[/:%!*+"'\\]""")


def check_name(name: str) -> str:
    """Return the name of an interface; ValueError where there can be none of that name."""
    if name in (".", ".."):
        raise ValueError(f"{name!r} cannot be the name of a network interface")
    return _check(name, _LONGEST)


def prefix_match(prefix: str) -> str:
    """Return what matches all interfaces whose names begin so; ValueError where nothing can."""
    return _check(prefix, _LONGEST - len("+")) + "+"


def _check(name: str, longest: int) -> str:
    if not name.strip():
        raise ValueError("must not be empty with this detectLocalMode")
    if len(name) > longest:
        raise ValueError(f"{name!r} is longer than {longest} characters")
    refused = _REFUSED.search(name)
    if refused is not None:
        raise ValueError(
            f"{name!r}: no network interface that a rule can match has {refused[0]!r} in its name"
        )
    return name
