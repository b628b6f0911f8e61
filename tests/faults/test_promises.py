"""promises.yaml is whole and true: no promise is missing, what it names exists, and nothing open is hidden."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = {
    "S": (*range(1, 21), 24, 26, 27, 28, 29),
    "R": tuple(range(1, 14)),
    "H": (1, 2, 3, 4, 5, 7, 9, 11, 12, 13, 16, 17, 18, 19),
    "C": (1, 2, 3, 4, 10, 11, 12, 13),
    "P": (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 14, 15),
    "X": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 20, 21, 22),
    "O": (1, 2, 3, 4, 5, 7, 9, 10),
}
STARRED = [
    "S1", "S2", "S3", "S8", "S11", "S12", "S16", "S26", "S27", "R3", "R5", "R7", "H7", "H9", "H12", "C1", "C2", "P1",
    "P10", "X1", "X2", "X3", "X8", "X9", "O1",
]  # fmt: skip
"""The 25 that matter most."""
KEYS = {"star", "says", "also", "case", "tests", "open"}
SCRIPTS = ("tests/soak/", "bench/")
"""What takes too long for a test, or a machine of its own."""
BEYOND = (
    "tests/faults/test_bounds.py::test_a_bomb_is_what_it_says",
    "tests/faults/test_network_path.py::",
    "tests/faults/test_admission.py::test_tls_follows_its_files",
    "tests/faults/test_admission.py::test_only_certified_clients_are_served",
    "tests/faults/test_admission.py::test_a_certificate_that_cannot_be_used_is_one_line",
    "tests/faults/test_admission.py::test_env_says_https",
)
"""No promise of the list says what these show."""

PROMISES: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "promises.yaml").read_text("utf-8"))


@cache
def functions_of(file: str) -> dict[str, ast.AsyncFunctionDef | ast.FunctionDef]:
    """The test functions of a file, by name."""
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef))
    return {node.name: node for node in functions if node.name.startswith("test_")}


@cache
def failing_marks(file: str) -> set[str]:
    """Names of marks in that file that are xfail."""
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    assigned = (node for node in tree.body if isinstance(node, ast.Assign) and "mark.xfail" in ast.unparse(node.value))
    return {ast.unparse(target) for node in assigned for target in node.targets}


def fails(test: str) -> bool:
    """It is marked as one that is expected to fail."""
    file, _, name = test.partition("::")
    if not name:
        return False
    marks = [ast.unparse(mark) for mark in functions_of(file)[name].decorator_list]
    return any("mark.xfail" in mark or mark in failing_marks(file) for mark in marks)


def test_no_promise_is_missing() -> None:
    assert list(PROMISES) == [f"{group}{number}" for group, numbers in NUMBERS.items() for number in numbers]
    assert [name for name, promise in PROMISES.items() if promise.get("star")] == STARRED


@pytest.mark.parametrize("name", PROMISES)
def test_what_proves_it_exists(name: str) -> None:
    promise = PROMISES[name]
    assert set(promise) <= KEYS
    assert promise["says"]
    assert promise.get("tests") or promise.get("open"), "neither proven nor open"
    for test in promise.get("tests", ()):
        file, found, function = test.partition("::")
        assert (ROOT / file).is_file(), file
        if found:
            assert function in functions_of(file), f"{file} has no {function}"
        else:
            assert file.startswith(SCRIPTS)
            assert 'if __name__ == "__main__":' in (ROOT / file).read_text("utf-8")


@pytest.mark.parametrize("name", [name for name, promise in PROMISES.items() if "case" in promise])
def test_a_case_that_is_named_exists(name: str) -> None:
    file = PROMISES[name]["tests"][0].partition("::")[0]
    assert f'"{PROMISES[name]["case"]}"' in (ROOT / file).read_text("utf-8")


@pytest.mark.parametrize("name", PROMISES)
def test_what_is_open_is_said(name: str) -> None:
    """The day a test no longer fails, its mark goes, and with it the word that the promise is open."""
    promise = PROMISES[name]
    open_ones = [test for test in promise.get("tests", ()) if fails(test)]
    if open_ones:
        assert promise.get("open"), f"{open_ones} are expected to fail"
    elif promise.get("tests"):
        assert "open" not in promise, "all tests hold; what is open?"


def test_every_test_here_proves_a_promise() -> None:
    """Whoever adds a test says what it is for."""
    named = {test for promise in PROMISES.values() for test in promise.get("tests", ())}
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    here = {
        f"{file.relative_to(ROOT)}::{name}" for file in files if file.name != Path(__file__).name
        for name in functions_of(str(file.relative_to(ROOT)))
    }  # fmt: skip
    scripts = (str(path.relative_to(ROOT)) for path in (ROOT / "tests/soak").glob("*.py"))
    assert not [test for test in here - named if not test.startswith(BEYOND)]
    assert all(any(test.startswith(beyond) for test in here - named) for beyond in BEYOND)
    assert {script for script in scripts if "__main__" in (ROOT / script).read_text("utf-8")} <= named
