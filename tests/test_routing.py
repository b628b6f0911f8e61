"""RoutingTable.resolve: exact names, families, patterns, provider/model, default, and the 404."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.config import loads
from gateway.errors import NotFound
from gateway.profile import Profile, merge
from gateway.routing import MAX_NAME, RoutingTable, Target, family_of, is_pattern

FILE = b"""
providers: {a: {api: echo}, b: {api: echo}}
models:
  sonnet: [a/one, b/two]
  claude-sonnet-4-5: a/exact
  haiku: {use: a/small, options: {num_ctx: 1}}
  "gpt-*": b/gpt
  "gpt-5*": b/never
  "[xy]-?": a
  "claude-opus-*": b/opus-pattern
  vendor/name: a/slashed
"""


def table(more: bytes = b"", server: bytes = b"") -> RoutingTable:
    return loads(server + FILE + more, "providers.yaml", {}).table


def targets(asked: str, more: bytes = b"", server: bytes = b"") -> list[str]:
    return [target.name for target in table(more, server).resolve(asked).targets]


SONNET = ["a/one", "b/two"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("sonnet", SONNET),
        ("claude-sonnet-5", SONNET),
        ("claude-sonnet-5-5", SONNET),
        ("claude-sonnet-4-6-20260101", SONNET),
        ("claude-3-5-sonnet-latest", SONNET),
        ("claude-3-5-sonnet-20241022", SONNET),
        ("claude-sonnet", SONNET),
        ("claude-sonnet-5[1m]", SONNET),
        ("sonnet[1m]", SONNET),
        ("anthropic/claude-sonnet-5", SONNET),
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", SONNET),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", SONNET),
        ("claude-sonnet-4-5@20250929", SONNET),
        ("claude-haiku-4-5-20251001", ["a/small"]),
        ("claude-sonnet-4-5", ["a/exact"]),
        ("claude-sonnet-4-5[1m]", ["a/exact"]),
        ("gpt-5.6", ["b/gpt"]),
        ("claude-opus-5", ["b/opus-pattern"]),
        ("x-1", ["a/x-1"]),
        ("y-2[1m]", ["a/y-2"]),
        ("vendor/name", ["a/slashed"]),
        ("a/any/thing:8b", ["a/any/thing:8b"]),
        ("b/sonnet", ["b/sonnet"]),
    ],
)
def test_resolve(asked: str, expected: list[str]) -> None:
    assert targets(asked) == expected


@pytest.mark.parametrize(
    "asked",
    [
        "claude-fable-5", "claude-opus", "opus", "sonnets", "my-claude-sonnet-5", "claude-sonnetta", "Claude-Sonnet-5",
        "claude-sonnet-5\n", "a/", "/x", "c/x", "a", "z-1", "", "[1m]", "gpt-" + "x" * MAX_NAME,
        "claude-" + "opus-" * 50_000 + "!",
    ],
    ids=lambda asked: repr(asked[:20]),
)  # fmt: skip
def test_unknown_names_are_a_404_that_lists_the_known(asked: str) -> None:
    with pytest.raises(NotFound) as caught:
        table().resolve(asked)
    assert caught.value.message.startswith("model: ")
    assert "sonnet, claude-sonnet-4-5, haiku, vendor/name, gpt-*" in caught.value.message
    assert len(caught.value.message) < 2 * MAX_NAME + 200


def test_default_takes_the_rest() -> None:
    more = b"  default: haiku\n"
    assert targets("claude-fable-5", more) == ["a/small"]
    assert targets("no/such", more) == ["a/small"]
    assert targets("b/x", more) == ["b/x"]
    assert targets("default", more) == ["a/small"]
    with pytest.raises(NotFound):
        targets("", more)


def test_direct_models_can_be_forbidden() -> None:
    server = b"server: {direct_models: false}\n"
    with pytest.raises(NotFound):
        targets("a/x", server=server)
    assert targets("a/x", b"  default: sonnet\n", server) == SONNET


def test_route_is_named_by_the_key_that_matched() -> None:
    names = {asked: table().resolve(asked).name for asked in ("claude-sonnet-5", "gpt-5.6", "a/x", "x-1")}
    assert names == {"claude-sonnet-5": "sonnet", "gpt-5.6": "gpt-*", "a/x": "a/x", "x-1": "[xy]-?"}


def test_a_long_list_of_names_is_cut() -> None:
    lines = b"providers: {a: {api: echo}}\nmodels:\n" + b"".join(b"  n%d: a/x\n" % n for n in range(150))
    with pytest.raises(NotFound, match=r"n99 and 50 more\."):
        loads(lines, "f", {}).table.resolve("x")


def test_an_empty_table_knows_nothing() -> None:
    with pytest.raises(NotFound, match="Known names: none"):
        RoutingTable({}).resolve("sonnet")


def test_families() -> None:
    assert family_of("claude-fable-5") == "fable"
    assert family_of("claude-instant-1") is None
    assert family_of("gpt-sonnet") is None


def test_is_pattern() -> None:
    assert [is_pattern(name) for name in ("a*", "a?", "[a]", "a.b/c:d")] == [True, True, True, False]


def test_merge_lays_layers_over_each_other() -> None:
    profile = merge(
        Profile(), {"extra_body": {"a": 1, "b": 1}, "efforts": ["low"]}, {}, {"extra_body": {"b": 2}, "images": False}
    )
    assert (profile.extra_body, profile.efforts, profile.images) == ({"a": 1, "b": 2}, ("low",), False)
    with pytest.raises(KeyError):
        merge(Profile(), {"colour": "red"})


def test_what_a_target_says_of_itself_is_asked_once() -> None:
    asked: list[str] = []

    def tell(target: Target) -> str:
        asked.append(target.name)
        return f"key of {target.name}"

    (one, two) = table().resolve("sonnet").targets
    assert [target.once(tell) for target in (one, two, one)] == ["key of a/one", "key of b/two", "key of a/one"]
    assert asked == ["a/one", "b/two"]
    other = replace(one, model="other")
    assert other.once(tell) == "key of a/other"
    assert one == replace(one)
    assert "key of" not in repr(one)
