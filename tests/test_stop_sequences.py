"""An answer ends at the first stop sequence that is whole, wherever its text is cut."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.translate.stop_sequences import StopSequences

CASES = {
    "none met": ("Hello", ["STOP"], "Hello", None),
    "in the middle": ("one STOP two", ["STOP"], "one ", "STOP"),
    "at the start": ("STOP", ["STOP"], "", "STOP"),
    "one character": ("a.b", ["."], "a", "."),
    "the first of two": ("x END STOP", ["STOP", "END"], "x ", "END"),
    "one inside the other, whole first": ("abc", ["abc", "b"], "a", "b"),
    "two with one end: the longer": ("say abc", ["c", "abc", "bc"], "say ", "abc"),
    "one that begins the other": ("abcd", ["abcd", "ab"], "", "ab"),
    "a false start": ("aaab", ["aab"], "a", "aab"),
    "a false start within": ("ababac", ["abac"], "ab", "abac"),
    "half of one at the end": ("so ST", ["STOP"], "so ST", None),
    "other alphabets": ("日本語\U0001f642終", ["\U0001f642終"], "日本語", "\U0001f642終"),
}


def answer(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    matcher = StopSequences(stops, enforce=True)
    left = []
    for piece in pieces:
        text, met = matcher.feed(piece)
        left.append(text)
        if met is not None:
            assert matcher.close() == ""
            return "".join(left), met
    return "".join([*left, matcher.close()]), None


def splits(text: str) -> list[list[str]]:
    """``text`` whole, by the character, and in every three pieces."""
    places = combinations(range(len(text) + 1), 2)
    return [[text], list(text), *([text[:one], text[one:two], text[two:]] for one, two in places)]


@pytest.mark.parametrize(("text", "stops", "left", "met"), CASES.values(), ids=CASES.keys())
def test_cuts_at_the_first_whole_sequence_in_any_split(text: str, stops: list[str], left: str, met: str | None) -> None:
    for pieces in splits(text):
        assert answer(pieces, stops) == (left, met), pieces


def plainly(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The same, by trying each beginning of the text."""
    for end in range(len(text) + 1):
        met = [stop for stop in stops if text[:end].endswith(stop)]
        if met:
            longest = max(met, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(st.text("ab", max_size=24), st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4), st.data())
def test_agrees_with_the_plain_way(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert answer(pieces, stops) == plainly(text, stops)


def test_what_cannot_be_a_beginning_leaves_at_once() -> None:
    matcher = StopSequences(["STOP"], enforce=True)
    assert matcher.feed("go S") == ("go ", None)
    assert matcher.feed("T") == ("", None)
    assert matcher.feed("a") == ("STa", None)


def test_a_new_block_begins_anew() -> None:
    matcher = StopSequences(["STOP"], enforce=True)
    assert matcher.feed("ST") == ("", None)
    assert matcher.close() == "ST"
    assert matcher.feed("OP") == ("OP", None)


def test_the_upstream_may_do_it() -> None:
    matcher = StopSequences(["STOP"], enforce=False)
    assert not matcher.cuts
    assert matcher.feed("a STOP") == ("a STOP", None)
