"""The screen that the interactive tests read."""

from __future__ import annotations

import pytest

from tests.e2e.terminal import Screen


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("a\r\nb", "a\nb\n"),
        ("\x1b[31ma\x1b[0m\x1b[3Cb", "a   b\n\n"),
        ("\x1b[2;3Hx\x1b[1Ay\x1b[Gz", "z  y\n  x\n"),
        ("abc\x1b[2D\x1b[K", "a\n\n"),
        ("a\r\nb\r\nc\x1b[1;1H\x1b[J", "\n\n"),
        ("a\x1b]0;title\x07b\x1bP>|x\x1b\\c\x1b[?2026h\x1b[>4;2md", "abcd\n\n"),
        ("\x1b7abc\x1b8x", "xbc\n\n"),
        ("終b", "終b\n\n"),
    ],
)
def test_the_screen_shows(sent: str, shown: str) -> None:
    whole, bytewise = Screen(3, 10), Screen(3, 10)
    whole.feed(sent.encode())
    for byte in sent.encode():
        bytewise.feed(bytes([byte]))
    assert whole.text() == bytewise.text() == shown


def test_lines_that_scroll_off_are_kept() -> None:
    screen = Screen(2, 5)
    screen.feed(b"one\r\ntwo\r\nthree")
    assert screen.scrolled == ["one"]
    assert screen.everything() == "one\ntwo\nthree"
