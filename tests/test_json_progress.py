"""JsonProgress knows when an object is whole, in whatever fragments it comes, and piles nothing up."""

from __future__ import annotations

import pytest

from gateway.translate.json_progress import MANY, JsonProgress

OBJECTS = [
    "{}",
    '{"a": "}"}',
    '{"a": "\\"}", "b": {"c": [1, {"d": "\\\\"}]}}',
    '{"a": "\\u007d{[", "b": "]"}',
    '  {"path": "a\\\\"}',
]


@pytest.mark.parametrize("text", OBJECTS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("asked", [True, False], ids=["asked at each fragment", "asked once"])
def test_an_object_is_whole_at_its_last_brace(text: str, size: int, asked: bool) -> None:
    progress = JsonProgress()
    for start in range(0, len(text), size):
        if asked:
            assert not progress.complete
        progress.feed(text[start : start + size])
    assert progress.complete


@pytest.mark.parametrize("text", ["", "  ", "null", '"{}"', "{", '{"a": "', '{"a": "\\', '{"a": {}', "[{}"])
def test_anything_less_is_not(text: str) -> None:
    progress = JsonProgress()
    progress.feed(text)
    assert not progress.complete


def test_fragments_do_not_pile_up() -> None:
    progress = JsonProgress()
    progress.feed('{"a": "')
    for _ in range(10 * MANY):
        progress.feed("xyz")
        assert len(progress._unscanned) < MANY
    progress.feed('"}')
    assert progress.complete
