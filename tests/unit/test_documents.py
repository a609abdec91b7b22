"""What counts as text."""

from __future__ import annotations

import pytest

from ipvs_agent.documents import MalformedError, check_text

PIECE = 64 * 1024  # of which so much is looked at at a time


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param("é".encode() * PIECE, id="no piece ends in a character"),
        pytest.param(b"x" * (PIECE - 1) + "é".encode() + b"y", id="a piece ends in a character"),
        pytest.param(b"x" * (PIECE - 2) + "🙂".encode(), id="the last character is in two pieces"),
    ],
)
def test_utf8_is_text(data):
    assert data == check_text(data)


def test_a_byte_order_mark_is_left_out():
    assert b"{}" == check_text(b"\xef\xbb\xbf{}")


@pytest.mark.parametrize(
    ("data", "line"),
    [
        pytest.param(b"a\n\xff", 2, id="no UTF-8"),
        pytest.param(b"\n" * (PIECE + 7) + b"\xe9x", PIECE + 8, id="in the second piece"),
        pytest.param(b"x" * (PIECE - 1) + b"\xc3", 1, id="half a character at the end of a piece"),
        pytest.param(b"abc\n\xc3", 2, id="half a character at the end"),
    ],
)
def test_other_text_is_refused_with_the_line(data, line):
    with pytest.raises(MalformedError, match=f"^line {line}: not UTF-8 text$"):
        check_text(data)
