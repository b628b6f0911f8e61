"""How large a prompt is said to be, before and after an upstream reported it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.translate.token_estimate import (
    DEFAULT_BYTES_PER_TOKEN,
    IMAGE_TOKENS,
    PromptSize,
    TokenEstimator,
    measure,
)

TARGET = "lab/model"
COUNTS = st.integers(0, 1 << 40)


def body(*content: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": list(content)}], **more}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 4_000_000}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A" * 400_000}}

# request -> (bytes of text, tokens of images and documents)
SIZES: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "a string": ({"messages": [{"role": "user", "content": "four"}]}, (4, 0)),
    "blocks": (body(text("four"), text("more")), (8, 0)),
    "a system string": (body(text("four"), system="system"), (10, 0)),
    "system blocks": (body(text("four"), system=[text("sys"), text("tem")]), (10, 0)),
    "two bytes a letter": (body(text("äöü")), (6, 0)),
    "four bytes a letter": (body(text("\U0001f600")), (4, 0)),
    "half a character": (body(text("\ud83d")), (1, 0)),
    "thinking": (body({"type": "thinking", "thinking": "hmm", "signature": "s" * 5000}), (3, 0)),
    "an image": (body(IMAGE), (0, IMAGE_TOKENS)),
    "an image in a tool result": (
        body({"type": "tool_result", "tool_use_id": "t", "content": [text("four"), IMAGE]}),
        (4, IMAGE_TOKENS),
    ),
    "a tool result's string": (body({"type": "tool_result", "tool_use_id": "t", "content": "four"}), (4, 0)),
    "a tool result without content": (body({"type": "tool_result", "tool_use_id": "t"}), (0, 0)),
    "a PDF": (body(PDF), (0, 10_001)),
    "a PDF by its address": (body({"type": "document", "source": {"type": "url", "url": "https://h/x.pdf"}}), (0, 1)),
    "no messages": ({}, (0, 0)),
}


@pytest.mark.parametrize(("request_body", "size"), SIZES.values(), ids=SIZES)
def test_measure(request_body: dict[str, Any], size: tuple[int, int]) -> None:
    assert measure(request_body) == PromptSize(*size)


def test_whatever_is_sent_is_counted() -> None:
    nothing = measure(body(text(""))).text_bytes
    for block in (
        {"type": "tool_use", "id": "toolu_1", "name": "write", "input": {"path": "x" * 100}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x" * 100}},
        {"type": "a_block_of_tomorrow", "field": "x" * 100},
        {"type": "thinking", "thinking": None, "data": "x" * 100},
    ):
        assert 100 <= measure(body(block)).text_bytes - nothing < 250
    tools = [{"name": "write", "input_schema": {"type": "object", "description": "x" * 100}}]
    assert 100 <= measure(body(tools=tools)).text_bytes < 250


def nested(levels: int) -> Any:
    value: Any = "deep"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("levels", [100, 240, 300, 1000, 5000])
def test_depth_is_counted_or_refused(levels: int) -> None:
    for deep in (body(tools=[nested(levels)]), body({"type": "tool_use", "input": nested(levels)})):
        try:
            assert measure(deep).text_bytes > levels
        except InvalidRequest:
            assert levels > 250
    assert measure({"system": nested(levels), "messages": nested(levels)}).text_bytes >= len("deep")


def test_an_estimate_before_any_report() -> None:
    assert TokenEstimator().estimate(TARGET, PromptSize(3600, 7)) == round(3600 / DEFAULT_BYTES_PER_TOKEN) + 7


@settings(max_examples=50)
@given(COUNTS, COUNTS, st.lists(st.tuples(COUNTS, COUNTS), max_size=5))
def test_an_estimate_is_never_zero_and_never_wild(size: int, other: int, reports: list[tuple[int, int]]) -> None:
    """Whatever an upstream claims, a token is never taken for less than one byte, nor for more than twelve."""
    estimator = TokenEstimator()
    for claimed_bytes, claimed_tokens in reports:
        estimator.learn(TARGET, PromptSize(claimed_bytes, 0), claimed_tokens)
    estimate = estimator.estimate(TARGET, PromptSize(size, other))
    assert estimate >= 1
    assert size // 12 - 1 <= estimate - other <= size + 1


def test_a_report_is_believed() -> None:
    estimator = TokenEstimator()
    size = PromptSize(5000, 0)
    estimator.learn(TARGET, size, 1000)
    assert estimator.estimate(TARGET, size) == 1000
    assert estimator.estimate(TARGET, PromptSize(50, 0)) == 10


def test_reports_are_smoothed_and_win_in_the_end() -> None:
    estimator = TokenEstimator()
    size = PromptSize(6000, 0)
    estimator.learn(TARGET, size, 3000)
    estimates = [estimator.estimate(TARGET, size)]
    for _ in range(30):
        estimator.learn(TARGET, size, 1000)
        estimates.append(estimator.estimate(TARGET, size))
    assert estimates == sorted(estimates, reverse=True)
    assert 1500 < estimates[1] < 3000
    assert estimates[-1] == 1000


def test_each_upstream_model_is_learnt_apart() -> None:
    estimator = TokenEstimator()
    size = PromptSize(5000, 0)
    estimator.learn(TARGET, size, 1000)
    assert estimator.estimate("lab/other", size) == round(5000 / DEFAULT_BYTES_PER_TOKEN)


@pytest.mark.parametrize(
    ("size", "reported"),
    [
        (PromptSize(5000, 0), 0),
        (PromptSize(100, 0), 49),
        (PromptSize(5000, 200), 1000),
        (PromptSize(0, IMAGE_TOKENS), 1600),
    ],
    ids=["nothing reported", "too small to tell", "images blur it", "an image alone"],
)
def test_reports_that_teach_nothing(size: PromptSize, reported: int) -> None:
    estimator = TokenEstimator()
    estimator.learn(TARGET, size, reported)
    assert estimator.estimate(TARGET, PromptSize(3600, 0)) == 1000


def test_names_that_clients_make_up_do_not_fill_the_memory() -> None:
    estimator = TokenEstimator()
    for number in range(20_000):
        estimator.learn(f"echo/{number}", PromptSize(5000, 0), 1000)
    assert len(estimator._ratios) <= 10_000
    assert estimator.estimate("echo/19999", PromptSize(5000, 0)) == 1000
