"""Several keys or addresses of one provider, retries, and who takes what is too long: right files."""

from __future__ import annotations

import pytest

from gateway.config import Config, ConfigError, loads
from gateway.resilience.policy import RetryPolicy
from gateway.routing import Endpoint, Provider

MODELS = "models: {m: lab/m}\n"


def config(text: str, **env: str) -> Config:
    return loads(text.encode(), "providers.yaml", env)


def provider(section: str, **env: str) -> Provider:
    return config(f"providers:\n  lab: {section}\n{MODELS}", **env).providers["lab"]


def shown(endpoints: tuple[Endpoint, ...]) -> list[str]:
    """``name base_url key source weight``."""
    return [f"{e.name} {e.base_url} {e.api_key} {e.key_source} {e.weight}" for e in endpoints]


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (
            "{preset: xai, api_key: ['${A}', '${B}', written-key]}",
            [
                "1 https://api.x.ai/v1 key-a A 1",
                "2 https://api.x.ai/v1 key-b B 1",
                "3 https://api.x.ai/v1 written-key None 1",
            ],
        ),
        (
            "{api: openai-chat, api_key: '${A}', endpoints: [{base_url: 'http://g1:8000/'}, "
            "{base_url: http://g2:8000, weight: 3, name: big}, {base_url: http://g3, api_key: '${B}'}]}",
            ["1 http://g1:8000/v1 key-a A 1", "big http://g2:8000/v1 key-a A 3", "3 http://g3/v1 key-b B 1"],
        ),
        (
            "{api: openai-chat, base_url: http://h, endpoints: [{api_key: '${A}'}, {base_url: http://i}]}",
            ["1 http://h/v1 key-a A 1", "2 http://i/v1 None None 1"],
        ),
        (
            "{preset: xai, endpoints: [{api_key: '${A}'}, {base_url: 'https://api.x.ai'}, {base_url: http://other}]}",
            # The customary key goes to the preset's own address, and to no other.
            [
                "1 https://api.x.ai/v1 key-a A 1",
                "2 https://api.x.ai/v1 key-x XAI_API_KEY 1",
                "3 http://other/v1 None None 1",
            ],
        ),
        (
            "{preset: xai, api_key: ['${A}', '${NOPE}', '${B}']}",
            ["1 https://api.x.ai/v1 key-a A 1", "3 https://api.x.ai/v1 key-b B 1"],
        ),
    ],
    ids=["keys", "addresses", "mixed", "customary key", "one without"],
)
def test_endpoints(section: str, expected: list[str]) -> None:
    found = config(f"providers:\n  lab: {section}\n{MODELS}", A="key-a", B="key-b", XAI_API_KEY="key-x")
    lab = found.providers["lab"]
    assert shown(lab.endpoints) == expected
    assert (lab.base_url, lab.api_key, lab.key_source) == tuple(
        getattr(lab.endpoints[0], name) for name in ("base_url", "api_key", "key_source")
    )
    (target,) = found.table.resolve("m").targets
    assert target.endpoints == lab.endpoints
    at = [target.at(endpoint) for endpoint in target.endpoints]
    assert [(t.base_url, t.provider.api_key, t.provider.key_source, t.name, t.profile) for t in at] == [
        (e.base_url, e.api_key, e.key_source, "lab/m", target.profile) for e in lab.endpoints
    ]
    assert {e.api_key for e in lab.endpoints} - {None} <= found.secrets
    assert [key for key in ("key-a", "key-b", "key-x", "written-key") if key in repr(found) + repr(at)] == []


def test_an_address_of_the_first_endpoint_names_the_preset() -> None:
    lab = provider("{endpoints: [{base_url: 'https://api.deepseek.com/anthropic'}, {base_url: http://copy/anthropic}]}")
    assert (lab.preset, lab.api) == ("deepseek", "anthropic")


def test_each_endpoint_has_the_address_for_the_api_of_a_model() -> None:
    text = """
providers:
  minimax:
    endpoints: [{base_url: https://api.minimax.io, api_key: a}, {base_url: https://api.minimaxi.com, api_key: b}]
    models: {"*-m3*": {api: anthropic}}
models: {new: minimax/MiniMax-M3, old: minimax/MiniMax-M2}
"""
    table = config(text).table
    addresses = {name: [e.base_url for e in table.resolve(name).targets[0].endpoints] for name in ("new", "old")}
    assert addresses == {
        "new": ["https://api.minimax.io/anthropic", "https://api.minimaxi.com/anthropic"],
        "old": ["https://api.minimax.io/v1", "https://api.minimaxi.com/v1"],
    }


def test_a_key_that_is_missing_leaves_the_others() -> None:
    found = config(f"providers:\n  lab: {{preset: xai, api_key: ['${{A}}', '${{B}}', '${{C}}']}}\n{MODELS}", B="b")
    lab = found.providers["lab"]
    assert found.warnings == ("providers.lab goes without its endpoint 1 (A is not set), 3 (C is not set)",)
    assert (lab.api_key, lab.missing_key, lab.endpoints) == ("b", None, ())


def test_a_provider_without_any_of_its_keys_is_disabled() -> None:
    found = config(f"providers:\n  lab: {{preset: xai, api_key: ['${{A}}', '${{B}}']}}\n{MODELS}")
    lab = found.providers["lab"]
    assert found.warnings == ("providers.lab is disabled: A is not set",)
    assert (lab.api_key, lab.missing_key, lab.key_source, lab.endpoints) == (None, "A", "A", ())


def test_endpoints_are_bounded() -> None:
    for section in ("{preset: xai, api_key: [%s]}", "{preset: xai, endpoints: [%s]}"):
        with pytest.raises(ConfigError, match="more than 32"):
            provider(section % ", ".join(["k"] * 33))


# -- on_overflow ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "targets", "overflow"),
    [
        ("{use: [echo/a, echo/b], on_overflow: echo/big}", "a b", "big"),
        ("{use: echo/a, on_overflow: [echo/big, echo/huge]}", "a", "big huge"),
        ("{use: echo/a, on_overflow: other}", "a", "o1 o2 o-big"),
        ("other", "o1 o2", "o-big"),
        ("{use: [echo/a, other], on_overflow: echo/huge}", "a o1 o2", "huge o-big"),
        ("[{use: echo/a, on_overflow: echo/big}, echo/b]", "a b", "big"),
        ("{use: {use: echo/a, on_overflow: echo/big}, max_tokens: 5}", "a:5", "big:5"),
        ("{use: echo/a, on_overflow: {use: echo/big, max_tokens: 7}, max_tokens: 5}", "a:5", "big:7"),
        ("{use: echo/a, on_overflow: echo/a}", "a", "a"),
        ("{use: echo, on_overflow: lab}", "m", "m"),
    ],
)
def test_on_overflow(entry: str, targets: str, overflow: str) -> None:
    text = f"""
providers: {{echo: {{}}, lab: {{api: echo}}}}
models:
  m: {entry}
  other: {{use: [echo/o1, echo/o2], on_overflow: echo/o-big}}
"""
    route = config(text).table.resolve("m")
    found = [
        " ".join(f"{t.model}:{limit}" if (limit := t.profile.max_output_tokens) else t.model for t in each)
        for each in (route.targets, route.on_overflow)
    ]
    assert found == [targets, overflow]


@pytest.mark.parametrize(
    ("small", "large", "warned"), [(8, 8, True), (8, 9, False), ("null", 8, False), (8, "null", False), (9, 8, True)]
)
def test_an_overflow_that_cannot_help(small: int | str, large: int | str, warned: bool) -> None:
    windows = f"a: {{context_window: {small}}}, b: {{context_window: {large}}}"
    text = f"providers: {{echo: {{models: {{{windows}}}}}}}\nmodels: {{m: {{use: echo/a, on_overflow: echo/b}}}}\n"
    expected = ("models.m.on_overflow: none of its targets has a larger context_window than those of 'use'",)
    assert config(text).warnings == (expected if warned else ())


# -- retries and places --------------------------------------------------------------------------------


def test_retries() -> None:
    models = f"providers: {{lab: {{api: echo}}}}\n{MODELS}"
    assert config(models).server.retry == RetryPolicy(budget=0.2, deadline=600.0, max_retry_after=5.0)
    written = config(f"server: {{retry: {{budget: 1, deadline: 90, max_retry_after: 0}}}}\n{models}").server.retry
    assert written == RetryPolicy(1.0, 90.0, 0.0)
    assert config(f"server: {{retry: }}\n{models}").server.retry == RetryPolicy()


def test_places_of_a_model() -> None:
    profile = "{max_attempts: 1, max_concurrency: 3, queue_timeout: 0.5}"
    text = f"providers: {{lab: {{api: echo, profile: {profile}}}}}\n{MODELS}"
    found = config(text).table.resolve("m").targets[0].profile
    assert (found.max_attempts, found.max_concurrency, found.queue_timeout) == (1, 3, 0.5)
    found = config(f"providers: {{lab: {{api: echo}}}}\n{MODELS}").table.resolve("m").targets[0].profile
    assert (found.max_attempts, found.max_concurrency, found.queue_timeout) == (2, None, 10.0)
