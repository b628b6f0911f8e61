"""Every kind of configuration mistake: all of them at once, each at its place, none with a secret in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import Config, ConfigError, Mistake, loads
from gateway.config.mistakes import Mistakes, listed, quoted

CASES: list[dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent.parent / "cases" / "config_mistakes.yaml").read_text("utf-8")
)
SECRET = "SECRET-VALUE"


def mistakes_of(text: bytes, env: dict[str, str] | None = None) -> tuple[Mistake, ...]:
    with pytest.raises(ConfigError) as caught:
        loads(text, "providers.yaml", env or {})
    assert str(caught.value).splitlines() == [str(mistake) for mistake in caught.value.mistakes]
    return caught.value.mistakes


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_case(case: dict[str, Any]) -> None:
    found = [str(mistake) for mistake in mistakes_of(case["text"].encode(), case.get("env"))]
    for line, expected in zip(found, case["mistakes"], strict=False):
        where, _, message = expected.partition(" ")
        assert line.startswith(f"providers.yaml:{where}: ")
        for part in message.split(" … "):
            assert part in line
    assert len(found) == len(case["mistakes"]), found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_no_case_shows_a_secret(case: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(case["text"].encode(), "providers.yaml", case.get("env", {}))
    assert SECRET not in str(caught.value) + repr(caught.value) + repr(caught.value.mistakes)
    assert caught.value.__cause__ is None


def test_names_of_cases_are_unique() -> None:
    assert len({case["name"] for case in CASES}) == len(CASES)


def test_mistake_of_the_whole_file_has_no_position() -> None:
    assert str(Mistake("f", 0, 0, "m", "h")) == "f: m (h)"
    assert str(Mistake("f", 3, 4, "m")) == "f:3:4: m"


def test_long_and_unprintable_names_are_cut() -> None:
    assert quoted("a\nb") == "'a?b'"
    assert len(quoted("x" * 1000)) == 66
    assert listed(map(str, range(22))).endswith("19 and 2 more")
    assert len(listed(["x" * 1000])) == 65


def test_suggestions_have_a_budget() -> None:
    mistakes = Mistakes("f")
    names = [f"name{number}" for number in range(1_300)]
    assert "name77" in mistakes.did_you_mean("name77", names)
    assert "name77" in mistakes.did_you_mean("name77", names)
    assert mistakes.did_you_mean("name77", names) == ""
    assert Mistakes("f").did_you_mean("n" * 100, names) == ""


# -- secrets: whatever is broken around them ----------------------------------------------------------

TEMPLATE = """\
server: {{port: {port}, token: "${{TOKEN}}"}}
providers:
  deepseek: {{api_key: "${{KEY}}", headers: {{X-Auth: "${{KEY}}"}}}}
  lab: {{api: openai-chat, base_url: "http://h/${{KEY}}/v1", api_key: "{secret}",
        profile: {{extra_body: {{password: "${{KEY}}"}}}}}}
models:
  sonnet: [{reference}, deepseek/deepseek-v4-pro]
  default: {{use: sonnet, options: {{k: "${{KEY}}"}}, {key}: 1}}
"""


@st.composite
def broken_files(draw: st.DrawFn) -> str:
    text = TEMPLATE.format(
        port=draw(st.sampled_from(("4002", "x", '"${KEY}"', "[1]"))),
        secret=SECRET,
        reference=draw(st.sampled_from(("lab/x", "deepseak/x", '"${KEY}/x"', '"${KEY}"', "[]"))),
        key=draw(st.sampled_from(("max_tokens", "profle", "drop"))),
    )
    at = draw(st.integers(0, len(text)))
    kind = draw(st.sampled_from(("none", "cut", "delete", "insert")))
    if kind == "cut":
        return text[:at]
    if kind == "delete":
        # Not the braces of a reference: its content would become a name, and names are shown.
        return text[:at] + text[at + draw(st.integers(1, 3)) :]
    if kind == "insert":
        return (
            text[:at]
            + draw(st.sampled_from(("\n", "{", "]", ":", "*", "!", "&", "%", "\t", "'", '"', "#")))
            + text[at:]
        )
    return text


def secrets_shown(shown: str) -> Iterator[str]:
    for secret in ("env-key-value-1234", "env-token-value-5678"):
        if secret in shown:
            yield secret


@settings(max_examples=150, deadline=None)
@given(broken_files())
def test_no_broken_file_shows_a_resolved_value(text: str) -> None:
    env = {"KEY": "env-key-value-1234", "TOKEN": "env-token-value-5678"}
    try:
        config: Config = loads(text.encode(), "providers.yaml", env)
    except ConfigError as error:
        shown = str(error) + repr(error) + repr(error.mistakes)
    else:
        address = [provider.base_url for provider in config.providers.values()]
        shown = repr(config) + str(config.warnings)
        for url in address:  # an address is no secret: it stands in every log
            shown = shown.replace(url, "")
    assert list(secrets_shown(shown)) == []


def test_a_file_of_mistakes_does_not_fill_the_log() -> None:
    text = "server:\n" + "".join(f"  unknown_{number}: 1\n" for number in range(5000))
    with pytest.raises(ConfigError) as caught:
        loads(text.encode(), "providers.yaml", {})
    told = str(caught.value).splitlines()
    assert len(told) == 101
    assert told[-1] == "providers.yaml: and 4,902 more mistakes"
