"""What a server says about a model, and what follows for the profile."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.profile import Profile, merge
from gateway.translate.ollama_window import (
    AGENT_WINDOW,
    asked_window,
    cuts_silently,
    default_window,
    learned_fields,
    loaded_window,
    takes_tools,
    too_small,
    window_in_force,
    window_of,
)

SHOW: dict[str, Any] = {
    "parameters": 'temperature                    0.6\nnum_ctx                        8192\nstop  "num_ctx 1"',
    "model_info": {
        "general.architecture": "qwen3",
        "qwen3.context_length": 40_960,
        "qwen3.rope.scaling.original_context_length": 4096,
        "clip.vision.context_length": 77,
    },
    "capabilities": ["completion", "tools", "thinking", "vision"],
}
LARGEST_ONLY = {"model_info": SHOW["model_info"]}


def profile(**fields: Any) -> Profile:
    return merge(Profile(), fields)


@pytest.mark.parametrize(
    ("show", "window"),
    [
        (SHOW, 40_960),
        ({"model_info": {"llama.context_length": 131_072}}, 131_072),
        ({"model_info": {"general.architecture": "llama", "other.context_length": 7, "b.context_length": 9}}, 9),
        ({"model_info": {"general.architecture": "llama"}}, None),
        ({"model_info": {"general.architecture": "llama", "llama.context_length": "8192"}}, None),
        ({"model_info": {"general.architecture": "llama", "llama.context_length": -1}}, None),
        ({"model_info": {"general.architecture": ["x"]}}, None),
        ({"model_info": []}, None),
        ({}, None),
        ([], None),
        (None, None),
    ],
)
def test_the_largest_window(show: Any, window: int | None) -> None:
    assert window_of(show) == window


@pytest.mark.parametrize(
    ("parameters", "window"),
    [
        (SHOW["parameters"], 8192),
        ("num_ctx 4096", 4096),
        ("num_ctx many", None),
        ("num_ctx 0", None),
        ('stop "num_ctx 7"', None),
        (f"num_ctx {'9' * 50}", None),
        ("", None),
        (7, None),
        (None, None),
    ],
)
def test_the_models_own_default(parameters: Any, window: int | None) -> None:
    assert default_window({"parameters": parameters}) == window


def test_the_window_of_a_loaded_model() -> None:
    ps = {"models": [7, {"name": "a:latest", "context_length": 4096}, {"model": "b:8b", "context_length": 32_768}]}
    assert [loaded_window(ps, name) for name in ("a", "a:latest", "b:8b", "b", "c")] == [4096, 4096, 32_768, None, None]
    assert loaded_window({"models": 7}, "a") is loaded_window(None, "a") is None


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, None),
        ({"context_window": 32_768}, 32_768),
        ({"context_window": 32_768, "extra_body": {"num_ctx": 8192}}, 8192),
        ({"context_window": 32_768, "extra_body": {"num_ctx": None}}, None),
        ({"context_window": 32_768, "extra_body": {"options": {"num_ctx": 4096}, "num_ctx": 8192}}, 4096),
        ({"context_window": 32_768, "extra_body": {"options": {"seed": 1}, "num_ctx": 8192}}, 8192),
        ({"context_window": 32_768, "extra_body": {"options": 7}}, 32_768),
    ],
)
def test_what_is_asked_for(fields: dict[str, Any], asked: int | None) -> None:
    assert asked_window(profile(**fields)) == asked


@pytest.mark.parametrize(
    ("fields", "show", "layer", "in_force"),
    [
        # The model holds less than is asked for; a num_ctx of the user's is lowered where it stands.
        ({"context_window": 65_536}, SHOW, {"context_window": 40_960}, 40_960),
        (
            {"context_window": 32_768, "extra_body": {"num_ctx": 65_536}},
            SHOW,
            {"context_window": 40_960, "extra_body": {"num_ctx": 40_960}},
            40_960,
        ),
        (
            {"extra_body": {"options": {"num_ctx": 65_536, "seed": 1}}},
            SHOW,
            {"context_window": 40_960, "extra_body": {"options": {"num_ctx": 40_960, "seed": 1}}},
            40_960,
        ),
        # It holds more: what was asked for stays.
        ({"context_window": 32_768}, SHOW, {}, 32_768),
        ({"context_window": 32_768, "extra_body": {"num_ctx": 16_384}}, SHOW, {"context_window": 16_384}, 16_384),
        # Nothing is asked for.
        ({}, SHOW, {"context_window": 8192}, 8192),
        ({}, LARGEST_ONLY, {}, None),
        ({"context_window": 32_768, "extra_body": {"num_ctx": None}}, SHOW, {"context_window": 8192}, 8192),
        ({}, {**LARGEST_ONLY, "remote_host": "https://ollama.com"}, {"context_window": 40_960}, 40_960),
        # The server says nothing.
        ({"context_window": 32_768}, {}, {}, 32_768),
        ({}, None, {}, None),
        # What the model cannot do is not asked of it.
        ({"thinking_on": {"think": True}}, {"capabilities": ["completion"]},
         {"images": False, "thinking_on": None, "effort_field": None}, None),
        ({"effort_field": "think"}, {"capabilities": ["vision"]}, {"thinking_on": None, "effort_field": None}, None),
        ({"images": False}, {"capabilities": ["completion"]}, {}, None),
        ({"thinking_on": {"think": True}}, {"capabilities": []}, {}, None),
    ],
)  # fmt: skip
def test_what_is_learned(fields: dict[str, Any], show: Any, layer: dict[str, Any], in_force: int | None) -> None:
    before = profile(**fields)
    assert learned_fields(before, show) == layer
    assert window_in_force(before, show) == in_force
    after = merge(before, layer)
    assert learned_fields(after, show) == {}, "what is known is not learned again"
    if asked_window(before) is not None:
        assert asked_window(after) == in_force


def test_tools() -> None:
    assert takes_tools(SHOW)
    assert takes_tools({})
    assert takes_tools({"capabilities": []})
    assert not takes_tools({"capabilities": ["completion"]})


@pytest.mark.parametrize(
    ("version", "cuts"),
    [
        ("0.12.5", True), ("0.9.6", True), ("v0.5.13-rc2", True), ("0.12.6", False), ("0.12.6-rc0", False),
        ("1.0.0", False), ("0.33.0", False), ("0.0.0", False), ("dev", False), ("", False), (None, False),
    ],
)  # fmt: skip
def test_old_servers_are_known_by_their_version(version: Any, cuts: bool) -> None:
    assert cuts_silently({"version": version}) is cuts
    assert not cuts_silently(None)


def test_the_advice() -> None:
    assert "options: {num_ctx: 40960}}" in too_small("ollama/q", 4096, SHOW)
    assert "{use: ollama/q, options: {num_ctx: 65536}}" in too_small("ollama/q", AGENT_WINDOW - 1, {})
    small = too_small("ollama/q", 4096, {"model_info": {"llama.context_length": 8192}})
    assert "num_ctx" not in small
    assert "another model" in small
