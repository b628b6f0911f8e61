"""Environment files: what they may hold, and how their mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import ConfigError
from gateway.env_file import MAX_BYTES, read_env_file, readable_by_others

SECRET = "sk-1f3870be274f6c49"
GOOD = {
    "": {},
    "\n# a comment\n   \n": {},
    "A=1": {"A": "1"},
    "A=1\r\nB=2\r\n": {"A": "1", "B": "2"},
    "\ufeffA=1": {"A": "1"},
    "export A=1": {"A": "1"},
    "  export   A = 1  ": {"A": "1"},
    "A=": {"A": ""},
    "A=a b  c # comment": {"A": "a b  c"},
    "A=a#b": {"A": "a#b"},
    "A='a # b' # comment": {"A": "a # b"},
    'A="a # b"': {"A": "a # b"},
    "A='a\\n$B'": {"A": "a\\n$B"},
    r'A="a\n\t\"\\\$B"': {"A": 'a\n\t"\\$B'},
    "A=$B${C}`d`": {"A": "$B${C}`d`"},
    "A=b=c": {"A": "b=c"},
    "A=it's": {"A": "it's"},
    "A=''": {"A": ""},
    "A=é": {"A": "é"},
    "export=1": {"export": "1"},
}
BAD = {
    f"A=1\n{SECRET}\n": (2, "no NAME=value"),
    f"{SECRET}=1": (1, "no NAME=value"),
    "A": (1, "'=' is missing"),
    "1A=x": (1, "no NAME=value"),
    f"=\n{SECRET}": (1, "no NAME=value"),
    f"\nA='{SECRET}": (2, "is not closed"),
    f'A="{SECRET}\\"': (1, "is not closed"),
    f"A='x' {SECRET}": (1, "text after the closing quote"),
    "A=1\nB=2\nA=3": (3, "first in line 1"),
    "A=\0": (1, "NUL"),
    "unset A": (1, "'=' is missing"),
}


def written(folder: Path, data: str | bytes) -> Path:
    file = folder / ".env"
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    return file


def mistakes(file: Path) -> list[tuple[int, str]]:
    with pytest.raises(ConfigError) as caught:
        read_env_file(file)
    assert all(mistake.file == str(file) for mistake in caught.value.mistakes)
    return [(mistake.line, str(mistake)) for mistake in caught.value.mistakes]


@pytest.mark.parametrize("text", GOOD, ids=repr)
def test_what_it_holds(tmp_path: Path, text: str) -> None:
    assert read_env_file(written(tmp_path, text)) == GOOD[text]


@pytest.mark.parametrize("text", BAD, ids=repr)
def test_a_mistake_has_its_line_and_shows_no_value(tmp_path: Path, text: str) -> None:
    line, words = BAD[text]
    (found_line, message), *_ = mistakes(written(tmp_path, text))
    assert found_line == line
    assert words in message
    assert f".env:{line}:" in message
    assert SECRET not in message


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    assert [line for line, _ in mistakes(written(tmp_path, "A\nB=1\nC='\n\nB=2\n"))] == [1, 3, 5]


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"A=" + b"x" * MAX_BYTES, "larger than"), (b"A=1\nB=\xff\n", ".env:2:1: this is not UTF-8")],
)
def test_what_is_no_text(tmp_path: Path, data: bytes, words: str) -> None:
    ((_, message),) = mistakes(written(tmp_path, data))
    assert words in message


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "there is no such file" in mistakes(tmp_path / "none")[0][1]
    assert "this is not a file" in mistakes(tmp_path)[0][1]


def test_who_can_read_it(tmp_path: Path) -> None:
    file = written(tmp_path, "")
    file.chmod(0o600)
    assert not readable_by_others(file)
    file.chmod(0o640)
    assert readable_by_others(file)
    assert not readable_by_others(tmp_path / "none")
