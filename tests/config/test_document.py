"""The guarded YAML reader: bombs, limits, YAML 1.1's traps, with libyaml and without."""

from __future__ import annotations

import time

import pytest
import yaml

from gateway.config import ConfigError
from gateway.config.document import MAX_BYTES, MAX_BYTES_PURE, ListNode, MapNode, Node, ScalarNode, core_value, read
from gateway.config.mistakes import Mistakes


@pytest.fixture(params=(True, False), ids=("libyaml", "pure"))
def libyaml(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param and not yaml.__with_libyaml__:
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr(yaml, "__with_libyaml__", request.param)
    return bool(request.param)


def tree(text: str | bytes) -> Node:
    mistakes = Mistakes("f")
    node = read(text if isinstance(text, bytes) else text.encode(), mistakes)
    mistakes.raise_if_any()
    return node


def refusal(text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        tree(text)
    return str(caught.value)


def test_nodes_know_their_places(libyaml: bool) -> None:
    node = tree("a:\n  - x\n  - {b: 'y'}\n")
    assert isinstance(node, MapNode)
    items = node.entries["a"]
    assert isinstance(items, ListNode)
    first, second = items.items
    assert isinstance(first, ScalarNode)
    assert isinstance(second, MapNode)
    assert (first.mark.line, first.mark.column, first.text, first.plain) == (2, 5, "x", True)
    assert (second.keys["b"].line, second.keys["b"].column) == (3, 6)
    inner = second.entries["b"]
    assert isinstance(inner, ScalarNode)
    assert not inner.plain


def test_names_stay_what_they_are(libyaml: bool) -> None:
    node = tree("{no: on, 010: 12:30:45, 1.10: yes, 2026-01-01: =, null: ~, 0x1f: 1_000}")
    assert isinstance(node, MapNode)
    assert list(node.entries) == ["no", "010", "1.10", "2026-01-01", "null", "0x1f"]
    assert [value.text for value in node.entries.values() if isinstance(value, ScalarNode)] == [
        "on", "12:30:45", "yes", "=", "~", "1_000",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("true", True), ("False", False), ("7", 7), ("-7", -7), ("+7", 7),
        ("010", 10), ("1.5", 1.5), (".5", 0.5), ("1e3", 1000.0), ("yes", "yes"), ("no", "no"), ("on", "on"),
        ("12:30", "12:30"), ("1_000", "1_000"), ("0x1f", "0x1f"), ("1e999", "1e999"), ("1e9999", "1e9999"),
        (".inf", ".inf"), ("9" * 30, 1e30), ("9" * 400, "9" * 400), ("1.2.3", "1.2.3"),
    ],
)  # fmt: skip
def test_core_schema(text: str, value: object) -> None:
    assert core_value(text) == value
    assert type(core_value(text)) is type(value)


def test_aliases_repeat_a_node(libyaml: bool) -> None:
    node = tree("a: &x {k: v}\nb: *x\n")
    assert isinstance(node, MapNode)
    assert node.entries["a"] is node.entries["b"]


def test_byte_order_mark_is_taken_off(libyaml: bool) -> None:
    assert isinstance(tree("\ufeffa: b\n"), MapNode)


def test_not_utf8_names_the_place(libyaml: bool) -> None:
    assert refusal(b"a: b\nc: \xff\n").startswith("f:2:4: this is not UTF-8")
    assert refusal("a: b".encode("utf-16")).startswith("f:1:1: this is not UTF-8")


def test_size(libyaml: bool) -> None:
    limit = MAX_BYTES if libyaml else MAX_BYTES_PURE
    assert "larger than" in refusal(b"#" * (limit + 1))
    assert "empty" in refusal(b"#" * limit)


def test_surrogates_from_escapes_are_refused(libyaml: bool) -> None:
    message = refusal('a: "\\ud800"\n')
    assert ("not valid YAML" if libyaml else "half of a surrogate pair") in message


def test_syntax_errors_do_not_quote_the_file(libyaml: bool) -> None:
    for text in ("a: [SECRET\nb: c\n", "a: 'SECRET\n", "a: SECRET: b\n", "a: @SECRET\n", "- a\nSECRET: b\n"):
        message = refusal(text)
        assert "not valid YAML" in message
        assert "SECRET" not in message


MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 9)
)
ALIAS_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
BOMBS = {
    "alias bomb": (ALIAS_BOMB, "more than 25000 values"),
    "merge bomb": (MERGE_BOMB, "more than 25000 values"),
    "aliases of one big node": (
        "a: &a [" + "x," * 16_000 + "]\nb: [*a, *a, *a, *a, *a, *a]\n",
        "more than 25000 values",
    ),
    "deep lists": ("[" * 60_000, "deeper than 64"),
    "deep maps": ("{a: " * 15_000, "deeper than 64"),
    "deep blocks": ("- " * 30_000, "deeper than 64"),
    "deep keys": ("? " * 30_000, "deeper than 64"),
    "deep indents": ("".join(" " * depth + "k:\n" for depth in range(300)), "deeper than 64"),
    "many values": ("- a\n" * 25_100, "more than 25000 values"),
    "many documents": ("--- a\n" * 10_000, "a second document"),
    "many directives": ("".join(f"%TAG !a{i}! b\n" for i in range(4_000)) + "--- a\n", "directives"),
    "many anchors": ("&a " * 20_000, "not valid YAML"),
    "a long tag": ("!" + "a" * 60_000, "YAML tags"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(name: str, libyaml: bool) -> None:
    text, message = BOMBS[name]
    if not libyaml and len(text) > MAX_BYTES_PURE:
        message = "larger than"
    assert message in refusal(text)


def test_the_number_of_nodes_has_a_limit() -> None:
    assert isinstance(tree("[" + "a," * 24_000 + "]"), ListNode)
    assert "more than 25000" in refusal("[" + "a," * 25_001 + "]")


if __name__ == "__main__":  # a figure for the documentation: how long the worst file takes
    for name, (text, _) in BOMBS.items():
        begin = time.perf_counter()
        refusal(text)
        print(f"{name:30} {time.perf_counter() - begin:.3f} s")
