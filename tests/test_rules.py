"""Every rule of the upstreams' wires has its evidence: R1-R63 requests, R70-R135 answers and errors.

A rule's number stands in the name of its cases (tests/cases), in the ``rules`` of its recordings, or, for what is told
by neither, in tests/streams/rules.yaml.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.recordings import STREAMS, load_yaml
from tests.targets import preset_target

TESTS = Path(__file__).parent
CASES = TESTS / "cases"
REQUESTS = (*range(1, 33), *range(40, 52), *range(55, 64))
ANSWERS = (*range(70, 96), *range(100, 107), *range(110, 121), *range(130, 136))
RULES = tuple(f"R{number}" for number in (*REQUESTS, *ANSWERS))
INDEX = load_yaml(STREAMS / "rules.yaml")
_RULE = re.compile(r"\bR\d+\b")


def names_in(value: Any) -> Iterator[str]:
    """Every ``name`` of a case, wherever a table holds its cases."""
    if isinstance(value, list):
        for item in value:
            yield from names_in(item)
    elif isinstance(value, dict):
        if isinstance(value.get("name"), str):
            yield value["name"]
        else:
            for item in value.values():
                yield from names_in(item)


def named_cases() -> Iterator[tuple[str, str]]:
    """(rule, file and name) for every rule in the name of a case."""
    for path in sorted(CASES.rglob("*.yaml")):
        for name in names_in(load_yaml(path)):
            for rule in _RULE.findall(name):
                yield rule, f"{path.relative_to(CASES)}: {name}"


def recorded() -> Iterator[tuple[str, str]]:
    """(rule, recording), as the recording itself or the index says."""
    for path in sorted(STREAMS.glob("*/*.expected.json")):
        for rule in json.loads(path.read_text()).get("rules", ()):
            yield rule, path.name.removesuffix(".expected.json")
    for rule, recordings in INDEX["recordings"].items():
        yield from ((rule, recording) for recording in recordings)


def indexed_tests() -> Iterator[tuple[str, str]]:
    """(rule, FILE::FUNCTION) of the index."""
    for rule, tests in INDEX["tests"].items():
        yield from ((rule, test) for test in tests)


@cache
def evidence() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {rule: [] for rule in RULES}
    for rule, where in (*named_cases(), *recorded(), *indexed_tests()):
        found.setdefault(rule, []).append(where)
    return found


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_has_its_evidence(rule: str) -> None:
    assert evidence()[rule], f"no case, recording or test names {rule}"


@pytest.mark.parametrize("rule", [f"R{number}" for number in REQUESTS if number not in (22, 30, 32)])
def test_a_rule_about_requests_has_a_request(rule: str) -> None:
    """R22 and R30 are about second attempts, R32 is about a request that is not sent."""
    assert any(where.startswith("requests/") for where in evidence()[rule]), (
        f"no case in tests/cases/requests names {rule}"
    )


def test_no_case_names_a_rule_that_there_is_not() -> None:
    assert set(evidence()) == set(RULES)


def test_the_index_names_what_there_is() -> None:
    names = {path.name.removesuffix(".expected.json") for path in STREAMS.glob("*/*.expected.json")}
    assert {name for _, name in recorded()} <= names
    for _, test in indexed_tests():
        file, _, function = test.partition("::")
        tree = ast.parse((TESTS.parent / file).read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert function in functions, test


def test_every_recording_is_listed_with_its_source() -> None:
    listed = re.findall(r"^\| `([^`]+)` \| .* \| (\S.*\S) \|$", (STREAMS / "README.md").read_text(), re.MULTILINE)
    files = [json.loads(path.read_text())["file"] for path in STREAMS.glob("*/*.expected.json")]
    assert sorted(name for name, _ in listed if "." in name) == sorted(files)


@pytest.mark.parametrize("row", INDEX["timers"], ids=lambda row: f"R90 {row[0]}")
def test_timers(row: list[Any]) -> None:
    provider, model, first_byte, idle = row
    api = {"ollama": "ollama", "openai": "openai-responses"}.get(provider, "openai-chat")
    profile = preset_target(provider, api, str(model)).profile
    assert (profile.first_byte_timeout, profile.idle_timeout) == (first_byte, idle)
