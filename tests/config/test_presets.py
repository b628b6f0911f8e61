"""profiles.yaml is read once and then kept compiled, as Python keeps a module."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.config import ConfigError, document, presets
from gateway.config.presets import Presets, read_presets
from gateway.profile import Profile, merge

TEXT = """\
apis: {openai-chat: {stop_limit: 3}}
providers:
  one:
    api: openai-chat
    base_url: http://one/v1
    hosts: [one]
    profile: {connect_timeout: 2, extra_body: {a: [1, null, .5]}, error_codes: {1: api_error}}
    models:
      - {match: [a, "b*"], profile: {efforts: [low]}}
      - {match: c, profile: {context_window: 7}}
    apis:
      anthropic: {base_url: http://one, profile: {keep_betas: false}, models: [{match: d, profile: {images: false}}]}
  two: {api: ollama, key_env: null}
"""


class Package:
    """A profiles.yaml of our own, in a package that may write bytecode."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads = 0
        self.file = folder / "profiles.yaml"
        self.reader = folder / "presets.py"
        self.reader.write_text("")
        self.write(TEXT, 1_000)
        self.age(self.reader, 1_000)
        really_read = document.read

        def read(*arguments: Any) -> Any:
            self.reads += 1
            return really_read(*arguments)

        monkeypatch.setattr(sys, "dont_write_bytecode", False)
        monkeypatch.setattr(presets, "read", read)
        monkeypatch.setattr(presets, "PROFILES", self.file)
        monkeypatch.setattr(presets, "_READERS", (str(self.reader),))

    def write(self, text: str, at: int) -> None:
        self.file.write_text(text)
        self.age(self.file, at)

    @staticmethod
    def age(file: Path, at: int) -> None:
        os.utime(file, (at, at))

    def start(self) -> Presets:
        """What a fresh process finds."""
        return presets.built_in.__wrapped__()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    return Package(tmp_path, monkeypatch)


def test_it_is_read_once(package: Package) -> None:
    first, second = package.start(), package.start()
    assert package.reads == 1
    assert first == second == read_presets(TEXT.encode(), "profiles.yaml")
    one = second.providers["one"]
    assert one.profile == {
        "connect_timeout": 2.0,
        "extra_body": {"a": [1, None, 0.5]},
        "error_codes": {"1": "api_error"},
    }
    assert isinstance(one.profile["connect_timeout"], float)
    assert [facts.pattern for facts in one.models] == ["a", "b*", "c"]
    assert one.models[0].profile is one.models[1].profile, "the patterns of one entry share their layer"
    assert one.models[0].profile == {"efforts": ("low",)}
    assert [(api, wire.base_url) for api, wire in one.apis.items()] == [
        ("openai-chat", "http://one/v1"),
        ("anthropic", "http://one"),
    ]
    assert second.providers["two"].hosts == ()


def test_what_ships_is_what_the_file_says() -> None:
    assert presets.built_in() == read_presets(presets.PROFILES.read_bytes(), "profiles.yaml")


def test_a_changed_file_is_read_anew(package: Package) -> None:
    package.start()
    package.write(TEXT.replace("stop_limit: 3", "stop_limit: 4"), 2_000)
    assert package.start().apis == {"openai-chat": {"stop_limit": 4}}
    package.start()
    assert package.reads == 2


def test_a_changed_reader_reads_anew(package: Package) -> None:
    """Another version may take another form of the same file."""
    package.start()
    package.age(package.reader, 3_000)
    package.start()
    package.start()
    assert package.reads == 2
    assert all(Path(reader).suffix == ".py" for reader in presets._READERS)


def test_where_nothing_can_be_written_it_is_read_each_time(package: Package) -> None:
    (package.file.parent / "__pycache__").write_text("in the way")
    assert package.start() == package.start()
    assert package.reads == 2


def test_a_damaged_copy_is_no_harm(package: Package) -> None:
    package.start()
    (kept,) = (package.file.parent / "__pycache__").iterdir()
    kept.write_bytes(kept.read_bytes()[:10])
    assert package.start().providers.keys() == {"one", "two"}
    assert package.reads == 2


def test_a_mistake_is_shown_each_time(package: Package) -> None:
    package.write(TEXT.replace("stop_limit", "stop_limits"), 2_000)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"profiles\.yaml:1:22: unknown key 'stop_limits'"):
            package.start()


def test_layers_merge_as_if_one_after_the_other() -> None:
    base = Profile(extra_body={"a": 1}, drop_fields=("x",))
    layers: list[dict[str, Any]] = [
        {"extra_body": {"b": 2}},
        {"stop_limit": 2, "drop_fields": ["y"]},
        {"extra_body": {"a": 3}},
        {},
    ]
    at_once, one_by_one = merge(base, *layers), base
    for layer in layers:
        one_by_one = merge(one_by_one, layer)
    assert at_once == one_by_one
    assert at_once.extra_body == {"a": 3, "b": 2}
    assert (at_once.stop_limit, at_once.drop_fields) == (2, ("y",))
    assert merge(base) is base
