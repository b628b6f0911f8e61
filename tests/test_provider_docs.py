"""The pages of docs/providers say what the profiles say, and what stands there to be pasted works."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click
import pytest

from docs import generate_providers
from docs.generate_providers import FOLDER, NOTES, ROOT, address_section
from docs.profile_words import CACHES, CHOICES, field_docs, read_yaml, sentence, sentences
from gateway.cli import main
from gateway.config import Config, loads
from gateway.config.presets import built_in
from gateway.profile import PROFILE_FIELDS, Profile

PROVIDERS = sorted(set(built_in().providers) - {"echo"})
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|tmp|home|root|usr|var|opt|mnt|Users)/|\b[A-Z]:\\")
MAKE = "run `make docs`"


def text_of(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def snippets(name: str) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```$", text_of(f"{name}.md"), re.MULTILINE | re.DOTALL)


@cache
def notes() -> dict[str, Any]:
    return read_yaml(NOTES)


@cache
def pages() -> dict[str, str]:
    return generate_providers.pages()


def config_of(text: str) -> Config:
    env = dict.fromkeys(re.findall(r"\$\{(\w+)", text), "value")
    config = loads(text.encode(), "providers.yaml", env)
    assert config.warnings == ()
    return config


# -- made, and made again --------------------------------------------------------------------------------


def test_the_pages_are_what_the_generator_makes() -> None:
    wanted = pages()
    assert sorted(path.name for path in FOLDER.glob("*.md")) == sorted(wanted), MAKE
    stale = [name for name, text in wanted.items() if text_of(name) != text]
    assert stale == [], MAKE


def test_the_generator_writes_what_is_missing_and_removes_what_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = pages()
    monkeypatch.setattr(generate_providers, "pages", lambda: wanted)
    monkeypatch.setattr(generate_providers, "FOLDER", tmp_path)
    monkeypatch.setattr(generate_providers, "ROOT", tmp_path)
    (tmp_path / "gone.md").write_text("a provider that was taken out")
    generate_providers.main()
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == wanted
    capsys.readouterr()
    generate_providers.main()
    assert capsys.readouterr().out == ""


def test_every_provider_has_notes_and_a_row() -> None:
    assert sorted(notes()) == PROVIDERS
    assert re.findall(r"^\| \[([\w-]+)\]", text_of("README.md"), re.MULTILINE) == PROVIDERS


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_page_is_short_and_whole(name: str) -> None:
    text = text_of(f"{name}.md")
    assert 40 <= len(text.splitlines()) <= 100
    for heading in ("providers.yaml", "Which wire", "What works", "What is dropped", "Known problems", "How it was"):
        assert f"\n## {heading}" in text
    assert 2 <= len(notes()[name]["problems"]) <= 4


# -- what is pasted --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_configurations_work(name: str) -> None:
    first, *others = map(config_of, snippets(name))
    for asked in ("claude-sonnet-5", "claude-haiku-4-5-20251001", "claude-opus-5", "anything"):
        route = first.table.resolve(asked)
        assert [target.provider.name for target in route.targets] == [name]
    preset = built_in().providers[name]
    assert len(others) == ("anthropic" in preset.apis and preset.api != "anthropic")
    for config in others:
        (target,) = config.table.resolve("claude-sonnet-5").targets
        assert (target.api, target.base_url) == ("anthropic", preset.apis["anthropic"].base_url)


ADDRESSES = [(name, address) for name, note in notes().items() for address in note.get("addresses", ())]


@pytest.mark.parametrize(("name", "address"), ADDRESSES, ids=[f"{name} {at['base_url']}" for name, at in ADDRESSES])
def test_another_address_has_the_same_facts(name: str, address: dict[str, Any]) -> None:
    page = generate_providers.Page(built_in().providers[name], notes()[name])
    section = address_section(page, address)
    assert section in text_of(f"{name}.md")
    model = page.notes["models"]["sonnet"]
    config = config_of(f"providers: {{elsewhere: {section}}}\nmodels: {{default: 'elsewhere/{model}'}}")
    (target,) = config.table.resolve("x").targets
    assert target.profile == page.target(model, address.get("api")).profile
    assert address["base_url"].startswith(target.base_url)
    assert target.provider.api_key == "value"


# -- what is said ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PROVIDERS, "README"])
def test_links_and_commands_lead_somewhere(name: str) -> None:
    text = text_of(f"{name}.md")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("https://", "http://")):
            file = (FOLDER / target).resolve()
            assert file.exists(), target
            assert ROOT in file.parents, target
    for command in re.findall(r"`gateway (\w[^`]*)`", text):
        words = command.split()
        found = main.get_command(click.Context(main), words[0])
        assert found is not None, command
        options = {option for parameter in found.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options, command
    assert not MACHINE_PATH.search(text)


def test_the_wording_knows_the_fields_and_their_values() -> None:
    assert set(sentences()) <= PROFILE_FIELDS
    assert set(field_docs()) == PROFILE_FIELDS
    hints = get_type_hints(Profile)
    assert set(CHOICES) == set(get_args(hints["tool_choice"]))
    assert set(CACHES) == set(get_args(hints["cache"]))
    for name, row in sentences().items():
        if isinstance(row, dict) and get_origin(hints[name]) is Literal:
            assert set(row) == set(get_args(hints[name])), name


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("stop_limit", 0, "It takes no stop sequences: the gateway cuts the answer itself."),
        ("stop_limit", 5, "It takes 5 stop sequences; when there are more, the gateway cuts the answer itself."),
        ("idle_timeout", 600.0, "A stream is given up after 600 s of silence."),
        ("thinking_off", None, "Reasoning cannot be switched off."),
        ("thinking_on", {"thinking": {"type": "on"}}, "Reasoning is asked for with `{thinking: {type: on}}`."),
        ("prefill", "prefix", "A last message of the assistant is marked `prefix`."),
        ("context_window", 1048576, "Context window: 1,048,576 tokens, unless more is known of a model."),
        ("error_codes", {"1": "api_error", "2": "api_error"}, "Its own error codes are understood (2)."),
        ("tool_result_id", False, ""),
    ],
)
def test_sentence(name: str, value: Any, said: str) -> None:
    assert sentence(name, value) == said


def test_a_field_without_a_sentence_says_its_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docs.profile_words.sentences", dict)
    assert sentence("max_tools", 5).startswith("`max_tools` is `5`: More offered tools than this")


def test_the_notes_are_prose() -> None:
    """A colon in a list item makes YAML read a mapping."""
    for name, note in notes().items():
        for text in [note["title"], note["about"], *note["notes"], *note["problems"]]:
            assert isinstance(text, str), f"{name}: {text}"
