"""Files that others read while they are written."""

from __future__ import annotations

from pathlib import Path


def replace(path: Path, text: str) -> None:
    """Give a file new content in one step, so that nobody reads half of it."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    temporary.replace(path)
