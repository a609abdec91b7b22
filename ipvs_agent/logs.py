"""Log lines: an event in a few words, then fields as key=value."""

from __future__ import annotations

import logging
import sys
import time


def event(words: str, **fields: object) -> str:
    """Return a message with fields; values with blanks, quotes or equal signs are quoted."""
    return " ".join([words, *(f"{name}={_value(value)}" for name, value in fields.items())])


def set_up(*, verbose: bool = False) -> None:
    """Send log lines to standard error: time in UTC, level, message."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger("ipvs_agent")
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    root.propagate = False


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    text = str(value)
    is_plain = text.isprintable() and not any(character in text for character in ' "=')
    return (
        text if is_plain and text else '"' + text.encode("unicode_escape").decode().replace('"', '\\"') + '"'
    )
