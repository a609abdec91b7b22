"""What somebody may have meant by a word that is not known."""

from __future__ import annotations

import functools

_LONGEST = 32


def closest(word: str, known: tuple[str, ...]) -> str:
    """Return the known word that is most like a given one, empty where none is like it."""
    # Nothing is like a long one, and finding that out would take long.
    return _closest(word, known) if len(word) <= _LONGEST else ""


@functools.lru_cache(maxsize=1024)  # one slip is often on many Services, and asked at each of their changes
def _closest(word: str, known: tuple[str, ...]) -> str:
    import difflib  # noqa: PLC0415 - for mistakes alone, and an agent's start need not wait for it

    return next(iter(difflib.get_close_matches(word.strip().lower(), known, n=1, cutoff=0.5)), "")
