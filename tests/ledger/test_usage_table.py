"""Tables fit the width they get, and say what has no price."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ledger.report import UsageRow, total
from gateway.ledger.usage_table import cost_text, money, printable, usage_table, usage_values

ROWS = [
    UsageRow(("anna", "openai/gpt-5.6"), 120, 23_239_004, 1_161_846, 92_956_016, 0, 92_956_016_000, 0, 3),
    UsageRow(("ben", "deepseek/deepseek-v4-pro"), 22, 11_619_502, 79_831, 394_832, 0, 46_478_008_000, 0, 0),
]
UNPRICED = UsageRow(("", "ollama/qwen3:8b"), 7, 5_000, 100, 0, 0, None, 7, 0)
BY = ("user", "model")


def table(rows: list[UsageRow], width: int | None = None, plain: bool = False) -> list[str]:
    return usage_table(BY, rows, total(rows), width, plain).splitlines()


def test_a_table() -> None:
    assert table(ROWS) == [
        "user   model                     requests       input     output  cache read     cost  cost share",
        "anna   openai/gpt-5.6                 120  23,239,004  1,161,846  92,956,016   $92.96  " + "█" * 30,
        "ben    deepseek/deepseek-v4-pro        22  11,619,502     79,831     394,832   $46.48  " + "█" * 15,
        "─" * 85,
        "total                                 142  34,858,506  1,241,677  93,350,848  $139.43",
    ]


def test_where_something_has_no_price_the_bars_are_of_tokens() -> None:
    lines = table([ROWS[1], UNPRICED])
    assert lines[0].endswith("token share")
    assert re.search(r"-\s+ollama/qwen3:8b .* unpriced  ▏$", lines[2])
    assert lines[-1].endswith("$46.48 + 7 unpriced")


def test_cache_writes_have_a_column_where_there_are_any() -> None:
    assert "cache write" not in table(ROWS)[0]
    assert "cache write" in table([UsageRow(("a", "b"), 1, cache_write_tokens=5)])[0]


def test_without_a_terminal_for_it_all_is_ascii() -> None:
    assert "\n".join([*table(ROWS, 60, True), *table(ROWS, None, True)]).isascii()


@pytest.mark.parametrize(
    ("width", "bars", "exact", "caches"),
    [
        (120, True, True, True),
        (98, True, True, True),
        (90, True, False, True),
        (84, False, False, True),
        (62, False, False, False),
    ],
)
def test_digits_go_first_then_bars_and_caches(width: int, bars: bool, exact: bool, caches: bool) -> None:
    lines = table(ROWS, width)
    assert max(map(len, lines)) <= width
    assert ("█" in lines[1]) == bars
    assert ("23,239,004" in lines[1]) == exact
    assert ("cache read" in lines[0]) == caches


@pytest.mark.parametrize("width", range(50, 60))
def test_then_names_lose_their_middle(width: int) -> None:
    lines = table(ROWS, width)
    assert max(map(len, lines)) == width
    assert re.search(r"^ben +d\w*…\S*-pro ", lines[2])


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.builds(
            UsageRow,
            st.tuples(st.text(max_size=20), st.text(max_size=60)),
            *[st.integers(0, 10**13)] * 5,
            st.none() | st.integers(0, 10**14),
            st.integers(0, 10**6),
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(100, 200),
)
def test_whatever_is_in_it_stays_in_its_line(rows: list[UsageRow], width: int) -> None:
    lines = usage_table(BY, rows, total(rows), width, False).split("\n")
    assert len(lines) == len(rows) + 3
    assert all(line.isprintable() and len(line) <= width for line in lines)


@pytest.mark.parametrize(
    ("nanodollars", "shown"),
    [
        (0, "$0"),
        (1, "<$0.0001"),
        (49_999, "<$0.0001"),
        (50_000, "$0.0001"),
        (123_449_999, "$0.1234"),
        (123_450_000, "$0.1235"),
        (999_949_999, "$0.9999"),
        (10**9, "$1.00"),
        (1_234_999_999, "$1.23"),
        (1_235_000_000, "$1.24"),
        (1_234_567_890_000_000, "$1,234,567.89"),
    ],
)
def test_money(nanodollars: int, shown: str) -> None:
    assert money(nanodollars) == shown


@pytest.mark.parametrize(
    ("cost", "unpriced", "shown"),
    [
        (None, 0, "-"),
        (None, 12, "unpriced"),
        (0, 0, "$0"),
        (1_230_000_000, 0, "$1.23"),
        (1_230_000_000, 1200, "$1.23 + 1,200 unpriced"),
    ],
)
def test_what_is_unpriced_is_never_nothing(cost: int | None, unpriced: int, shown: str) -> None:
    assert cost_text(UsageRow((), cost=cost, unpriced=unpriced)) == shown


def test_values_have_all_digits() -> None:
    values = usage_values(BY, ROWS[0])
    assert (values["user"], values["model"], values["cost_usd"]) == ("anna", "openai/gpt-5.6", "92.956016000")
    assert usage_values((), UsageRow((), cost=1))["cost_usd"] == "0.000000001"
    assert usage_values((), UNPRICED)["cost_usd"] is None


def test_the_sum_of_nothing_priced_has_no_price() -> None:
    assert total([UNPRICED, UNPRICED]).cost is None
    assert (total([]).cost, total([]).requests) == (None, 0)
    assert total([UNPRICED, ROWS[0]]).cost == ROWS[0].cost


def test_names_move_no_cursor() -> None:
    assert printable("a\x1b[31m\u202eb\nc") == "a?[31m?b?c"
