"""Overrides added to a hand-written providers.yaml: the text, the configuration, the file."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import loads
from gateway.config.overrides import CannotInsert, Override, insert_overrides, snippet, value_text
from gateway.config.rewrite import replace_file, rewrite

CASES = yaml.safe_load((Path(__file__).parents[1] / "cases" / "overrides.yaml").read_text(encoding="utf-8"))
COMMENT = "found by gateway check --live, 2026-11-22"
LAB = "http://127.0.0.1:9/v1"
FILE = f"""\
providers:
  lab:
    api: openai-chat   # by hand
    base_url: {LAB}
models:
  sonnet: [lab/m, lab/n]
  haiku: lab/M
  "gpt-*": lab/m
"""


def wanted(case: Mapping[str, Any]) -> list[Override]:
    return [Override(*item) for item in case["set"]]


# -- the text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in CASES if "after" in case], ids=lambda case: case["name"])
def test_inserted(case: Mapping[str, Any]) -> None:
    assert insert_overrides(case["before"], wanted(case), "C") == case["after"]


@pytest.mark.parametrize("case", [case for case in CASES if "refused" in case], ids=lambda case: case["name"])
def test_refused(case: Mapping[str, Any]) -> None:
    with pytest.raises(CannotInsert, match=case["refused"]):
        insert_overrides(case["before"], wanted(case), "C")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_every_case_says_how_it_ends(case: Mapping[str, Any]) -> None:
    assert set(case) in ({"name", "before", "set", "after"}, {"name", "before", "set", "refused"})


def test_a_snippet_is_what_would_have_been_inserted() -> None:
    found = [Override("lab", "m", "images", False), Override("lab", "qwen3:8b", "efforts", ("low",))]
    assert snippet(found, "C").splitlines() == [
        "providers:",
        "  lab:",
        "    models:",
        "      m:",
        "        images: false  # C",
        '      "qwen3:8b":',
        "        efforts: [low]  # C",
    ]


_words = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF), max_size=9)
_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 10**9), _words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_words.filter(bool), inner, max_size=3)),
    max_leaves=5,
)


def _block(value: Any, column: int, comments: Any) -> list[str]:
    """A mapping in block style, with comments and blank lines between its entries."""
    lines: list[str] = []
    for name, item in value.items():
        lines += [*comments(), " " * column + value_text(str(name)) + ":"]
        if isinstance(item, dict) and item:
            lines += _block(item, column + 2, comments)
        else:
            lines[-1] += " " + value_text(item)
    return lines


@st.composite
def _files(draw: st.DrawFn) -> str:
    """A file with a provider ``lab`` in it, in block or flow style, its line ends and comments by chance."""
    sections = draw(st.dictionaries(_words.filter(bool), _values, max_size=3))
    fields = _words.filter(lambda word: word not in ("", "models"))
    lab = draw(st.one_of(st.none(), st.dictionaries(fields, _values, max_size=3)))
    lab = {**lab, "models": {"q*": {"images": True}}} if lab is not None and draw(st.booleans()) else lab
    tree = {"before": 1, "providers": {**sections, "lab": lab, "z": None}, "after": [1]}
    style = draw(st.sampled_from(["block", "flow", "mixed"]))
    if style == "flow":
        lines = [value_text(tree)]
    elif style == "mixed":
        lines = [f"{name}: {value_text(item)}" for name, item in tree.items()]
    else:
        extra = st.sampled_from([[], [], ["# a comment"], [""], ["      # deep", ""]])
        lines = _block(tree, 0, lambda: draw(extra))
    lines = [line + draw(st.sampled_from(["", "  # why", " "])) if line.strip() else line for line in lines]
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    return newline.join(lines) + draw(st.sampled_from(["", newline]))


@settings(max_examples=100, deadline=None)
@given(_files(), _words.filter(bool), st.sampled_from(["images", "context_window"]), _values)
def test_only_the_field_is_new(text: str, model: str, field: str, value: Any) -> None:
    try:
        before = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return
    override = Override("lab", model, field, value)
    after = insert_overrides(text, [override], COMMENT)
    node = before["providers"]
    for name in ("lab", "models", override.pattern):
        node[name] = node.get(name) or {}
        node = node[name]
    node[field] = yaml.safe_load(value_text(value))
    assert yaml.safe_load(after) == before
    # Nothing of the old text is lost or moved: without the new characters it is there.
    rest = iter(after)
    assert "lab: null" in text or all(character in rest for character in text)
    assert after.count(COMMENT) == 1


# -- the configuration -----------------------------------------------------------------------------------


def test_the_configuration_has_the_new_fields_and_no_other() -> None:
    found = [Override("lab", "m", "images", False), Override("lab", "m", "efforts", ("low", "max"))]
    made = rewrite(FILE, found, COMMENT, {})
    assert (made.written, made.refused) == (found, [])
    assert all(line in made.after for line in FILE.splitlines())
    old, new = loads(FILE.encode(), "f", {}).table, loads(made.after.encode(), "f", {}).table
    for name in ("sonnet", "haiku", "gpt-5", "lab/m"):
        assert new.resolve(name).targets[0].profile.images is False
        assert new.resolve(name).targets[0].profile.efforts == ("low", "max")
    assert new.resolve("sonnet").targets[1] == old.resolve("sonnet").targets[1]
    assert new.resolve("lab/other").targets == old.resolve("lab/other").targets


# the file -> why the one override of lab/m is not taken
NOT_TAKEN = {
    "models: {a: {use: lab/m, profile: {images: true}}, b: lab/m}": "sets this field for the model in another place",
    "models: {a: [lab/n]}": "a later pattern",
    "models: {a: lab/m}": "16 patterns",
}
OWN = {
    "a later pattern": 'models: {m: {stop_limit: 1}, "*": {images: true}}',
    "16 patterns": "models: {" + ", ".join(f"x{number}: {{}}" for number in range(16)) + "}",
}


@pytest.mark.parametrize(("models", "reason"), NOT_TAKEN.items())
def test_what_would_not_hold_is_left_out(models: str, reason: str) -> None:
    text = f"providers: {{lab: {{api: openai-chat, base_url: '{LAB}', {OWN.get(reason, '')}}}}}\n{models}\n"
    wrong, good = Override("lab", "m", "images", False), Override("lab", "m", "tool_id_max", 9)
    made = rewrite(text, [wrong], COMMENT, {})
    assert made.after == text
    assert made.written == []
    ((refused, why),) = made.refused
    assert refused == wrong
    assert reason in why
    if reason != "16 patterns":
        assert rewrite(text, [wrong, good], COMMENT, {}).written == [good], "the others are taken all the same"


def test_a_value_that_a_profile_does_not_take() -> None:
    made = rewrite(FILE, [Override("lab", "m", "images", "maybe")], COMMENT, {})
    assert made.after == FILE
    assert "expected true or false" in made.refused[0][1]


# -- the file --------------------------------------------------------------------------------------------


def test_the_file_keeps_its_permissions_and_its_place_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "p.yaml", tmp_path / "providers.yaml"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link.symlink_to(Path("real") / "p.yaml")
    replace_file(link, b"old", b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert os.listdir(real.parent) == ["p.yaml"]


def test_a_file_that_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "providers.yaml"
    path.write_bytes(b"newer")
    with pytest.raises(OSError, match="changed meanwhile"):
        replace_file(path, b"old", b"new")
    assert path.read_bytes() == b"newer"
    assert os.listdir(tmp_path) == ["providers.yaml"]


def test_the_file_keeps_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "providers.yaml"
    path.write_bytes(b"old")
    state = path.stat()
    kept: list[tuple[int, int]] = []
    of_another = os.stat_result((*state[:4], state.st_uid + 1, *state[5:10]))
    monkeypatch.setattr(os, "fstat", lambda handle: of_another)
    monkeypatch.setattr(os, "fchown", lambda handle, user, group: kept.append((user, group)))
    replace_file(path, b"old", b"new")
    assert kept == [(state.st_uid, state.st_gid)]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "providers.yaml"
    path.write_bytes(b"old")

    def no_room(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"old", b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["providers.yaml"]
