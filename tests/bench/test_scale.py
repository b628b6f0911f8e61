"""The page, its tables and its pictures say what scale.json says; what was measured is what the page says it is."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson
import pytest

from bench import plots, scale
from gateway.translate.request_check import check_request

FIGURES = json.loads(plots.FIGURES.read_text(encoding="utf-8"))


@pytest.mark.parametrize("chart", plots.CHARTS, ids=lambda chart: chart.name)
def test_a_picture_is_drawn_from_the_figures(chart: plots.Chart) -> None:
    drawn = (plots.FOLDER / f"{chart.name}.svg").read_text(encoding="utf-8")
    assert drawn == chart.svg(FIGURES[chart.kind]["figures"]), "run: make scale"
    assert f"performance/{chart.name}.svg" in plots.PAGE.read_text(encoding="utf-8")


def test_the_tables_are_the_figures() -> None:
    page = plots.PAGE.read_text(encoding="utf-8")
    assert plots.with_tables(page, FIGURES) == page, "run: make scale"
    assert re.findall(r"<!-- scale: (\w+) -->\n\| ", page) == list(scale.GROWTHS)


def test_every_growth_has_all_its_sizes() -> None:
    sizes = {
        "messages": scale.MESSAGES,
        "tools": scale.TOOLS,
        "routes": scale.ROUTES,
        "keys": scale.KEYS,
        "streams": scale.STREAMS,
    }
    for name, told in FIGURES.items():
        for figure, values in told["figures"].items():
            assert tuple(map(int, values)) == sizes[name], (name, figure)


@pytest.mark.parametrize("chart", plots.CHARTS, ids=lambda chart: chart.name)
def test_every_point_lies_inside_the_picture(chart: plots.Chart) -> None:
    drawn = chart.svg(FIGURES[chart.kind]["figures"])
    places = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    assert len(places) == len(chart.series) * len(next(iter(FIGURES[chart.kind]["figures"].values())))
    for x, y in places:
        assert plots.LEFT <= x <= plots.WIDTH - plots.RIGHT
        assert plots.TOP <= y <= plots.HEIGHT - plots.BOTTOM


@pytest.mark.parametrize("size", scale.MESSAGES)
def test_a_conversation_is_one(size: int) -> None:
    body = {**scale.conversation(size), "model": "m"}
    messages = check_request(body)["messages"]
    assert len(messages) == size
    assert messages[-1]["role"] == "user"
    calls: list[Any] = [block["id"] for message in messages for block in blocks(message) if block["type"] == "tool_use"]
    answered = [block["tool_use_id"] for message in messages for block in blocks(message) if "tool_use_id" in block]
    assert calls == answered
    assert len(set(calls)) == len(calls) == (size - 1) // 2


def blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    return message["content"] if isinstance(message["content"], list) else []


@pytest.mark.parametrize("size", scale.TOOLS)
def test_tools_are_as_many_as_asked(size: int) -> None:
    tools = scale.tools(size)["tools"]
    assert len({tool["name"] for tool in tools}) == size


def test_a_spaced_body_says_the_same() -> None:
    body = scale.tools(30)
    assert orjson.loads(scale.spaced(body)) == orjson.loads(scale.compact(body))
    assert scale.spaced(body) != scale.compact(body)


@pytest.mark.parametrize(
    ("value", "shown"), [(0.1234, "0.12"), (9.999, "10.00"), (12.34, "12.3"), (123.4, "123"), (12345.0, "12,345")]
)
def test_figures_are_short(value: float, shown: str) -> None:
    assert scale.plain(value) == shown
