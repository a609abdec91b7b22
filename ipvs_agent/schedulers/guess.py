"""What somebody may have meant by a word that is not known."""

from __future__ import annotations

import functools

_LONGEST = 32


@functools.lru_cache(maxsize=64)  # one slip is often on many Services
def closest(word: str, known: tuple[str, ...]) -> str:
    """Return the known word that is most like a given one, empty where none is like it."""
    import difflib  # noqa: PLC0415 - for mistakes alone, and an agent's start need not wait for it

    if len(word) > _LONGEST:
        return ""  # nothing is like it, and finding that out would take long
    return next(iter(difflib.get_close_matches(word.strip().lower(), known, n=1, cutoff=0.5)), "")
