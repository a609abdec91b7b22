"""Where answers and programs that are good for more than one run are kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the cache folder, made if need be."""
    base = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME", "/root"), ".cache"))
    path = Path(base, "ipvs-agent")
    path.mkdir(parents=True, exist_ok=True)
    return path


def write(path: Path, content: bytes) -> None:
    """Write a cache file so that another launcher sees all of it or nothing."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(path)
