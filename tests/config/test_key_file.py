"""keys.yaml: what a right file becomes, and every mistake, at once, each at its place, none with a key in it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.access.client_key import ClientKey
from gateway.access.key_ring import KeyRing
from gateway.access.key_text import make
from gateway.access.limits import NO_LIMITS, Budget, Limits
from gateway.config import ConfigError
from gateway.config.key_file import beside, load, loads, moment, when

CASES: list[dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent.parent / "cases" / "key_file_mistakes.yaml").read_text("utf-8")
)
KEY = make(bytes(32))
DIGESTS = [hashlib.sha256(str(number).encode()).digest() for number in range(3)]


def filled(text: str) -> str:
    """``text`` with what HASH0 and KEY stand for; so HASH00 is one digit too long."""
    for number, digest in enumerate(DIGESTS):
        text = text.replace(f"HASH_UPPER{number}", digest.hex().upper())
        text = text.replace(f"HASH{number}", digest.hex())
    return text.replace("KEY", KEY)


def ring(text: str) -> KeyRing:
    return loads(filled(text).encode(), "keys.yaml")


def utc(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_mistakes(case: dict[str, Any]) -> None:
    data = case.get("latin1", "").encode("latin-1") + filled(case["text"]).encode()
    with pytest.raises(ConfigError) as caught:
        loads(data, "keys.yaml")
    found = [str(mistake) for mistake in caught.value.mistakes]
    for line, expected in zip(found, case["mistakes"], strict=False):
        where, _, message = expected.partition(" ")
        assert line.startswith("keys.yaml: " if where == "-" else f"keys.yaml:{where}: ")
        for part in message.split(" … "):
            assert part in line
    assert len(found) == len(case["mistakes"]), found
    shown = str(caught.value) + repr(caught.value) + repr(caught.value.mistakes)
    assert KEY not in shown
    assert KEY[4:40] not in shown


def test_names_of_cases_are_unique() -> None:
    assert len({case["name"] for case in CASES}) == len(CASES)


WHOLE = """\
keys:
  anna: {sha256: HASH1, group: dev, user: a.meier@x, models: [sonnet, "gpt-*"], rpm: 60, tpm: 400k, concurrency: 8,
    budget: 20usd/month, expires: 2027-02-20, created: 2026-11-22, disabled: true,
    previous: [{sha256: HASH2, until: 2026-11-23T10:00:00Z}], log_prompts_until: "2026-12-01T00:00:00+01:00"}
"""


def test_every_field() -> None:
    assert ring(WHOLE).keys == (
        ClientKey(
            name="anna",
            user="a.meier@x",
            group="dev",
            models=("sonnet", "gpt-*"),
            limits=Limits(60, 400_000, 8, (Budget(20 * 10**9, "nanodollars", "month"),)),
            expires=utc(2027, 2, 20),
            disabled=True,
            log_prompts_until=utc(2026, 11, 30, 23),
            digests=((DIGESTS[1], None), (DIGESTS[2], utc(2026, 11, 23, 10))),
            created=utc(2026, 11, 22),
        ),
    )


def test_the_least_that_a_key_needs() -> None:
    (key,) = ring("keys:\n  anna: {sha256: HASH1}\n").keys
    assert key == ClientKey("anna", "anna", digests=((DIGESTS[1], None),))
    assert (key.limits, key.models, key.disabled) == (NO_LIMITS, None, False)


@pytest.mark.parametrize("written", ["HASH_UPPER1", "'HASH1'", '"HASH1"'])
def test_a_digest_in_any_spelling(written: str) -> None:
    assert ring(f"keys: {{anna: {{sha256: {written}}}}}").keys[0].digests == ((DIGESTS[1], None),)


def test_a_digest_of_digits_alone_is_no_number() -> None:
    for digits in ("1" * 64, "1" * 30 + "e" + "1" * 33):
        assert ring(f"keys: {{anna: {{sha256: {digits}}}}}").keys[0].digests[0][0].hex() == digits


def test_several_budgets_and_names_of_other_scripts() -> None:
    (key,) = ring("keys:\n  jürgen: {sha256: HASH1, budget: [1.5usd/day, 2M tokens/week]}\n").keys
    assert key.name == "jürgen"
    assert key.limits.budget == (Budget(1_500_000_000, "nanodollars", "day"), Budget(2_000_000, "tokens", "week"))


@pytest.mark.parametrize("name", ["null", "no", "123", "1e3", "true"])
def test_names_that_look_like_something_else(name: str) -> None:
    assert ring(f"keys: {{{name}: {{sha256: HASH1}}}}").keys[0].name == name


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2027-02-20", utc(2027, 2, 20)),
        ("2027-02-20T10:00:00Z", utc(2027, 2, 20, 10)),
        ("2027-02-20 10:00", utc(2027, 2, 20, 10)),
        ("2027-02-20T10:00:00-02:00", utc(2027, 2, 20, 12)),
    ],
)
def test_moments(text: str, seconds: float) -> None:
    assert moment(text) == seconds
    assert moment(when(seconds)) == seconds


@pytest.mark.parametrize("text", ["keys:\n", "keys: {}\n", "keys: ~", "# team\nkeys: # none\n"])
def test_a_file_without_keys_admits_nobody(text: str) -> None:
    assert ring(text) == KeyRing(required=True)
    assert ring(text)


# -- the file --------------------------------------------------------------------------------------------------


def test_no_file_is_no_ring(tmp_path: Path) -> None:
    assert not load(tmp_path / "keys.yaml")
    (tmp_path / "link").symlink_to("gone.yaml")
    assert not load(tmp_path / "link")


@pytest.mark.parametrize(
    ("mode", "open_to_others"), [(0o600, False), (0o640, False), (0o644, False), (0o620, True), (0o602, True)]
)
def test_a_file_that_others_can_change_is_a_warning(tmp_path: Path, mode: int, open_to_others: bool) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(filled(WHOLE))
    file.chmod(mode)
    found = load(file)
    assert found == KeyRing(ring(WHOLE).keys, required=True, warnings=found.warnings)
    assert [str(file) in warning and "chmod go-w" in warning for warning in found.warnings] == [True] * open_to_others


UNREADABLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a folder": (lambda path: path.mkdir(), "this is not a file"),
    "a pipe": (lambda path: os.mkfifo(path), "this is not a file"),
    "a circle of links": (lambda path: path.symlink_to(path.name), "cannot be read: "),
    "too large": (lambda path: path.write_bytes(b"#" * (2 << 20)), "larger than"),
}


@pytest.mark.parametrize(("make_it", "said"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read(tmp_path: Path, make_it: Callable[[Path], Any], said: str) -> None:
    path = tmp_path / "keys.yaml"
    make_it(path)
    with pytest.raises(ConfigError) as caught:
        load(path)
    (mistake,) = caught.value.mistakes
    assert said in str(mistake)
    assert mistake.file == str(path)


def test_a_path_that_is_none() -> None:
    with pytest.raises(ConfigError, match="the path is not valid"):
        load(Path("a\0b"))


def test_where_the_file_is() -> None:
    assert beside(Path("etc/providers.yaml"), None) == Path("etc/keys.yaml")
    assert beside(Path("etc/providers.yaml"), "team/keys.yaml") == Path("etc/team/keys.yaml")
    assert beside(Path("etc/providers.yaml"), "/run/keys.yaml") == Path("/run/keys.yaml")


def test_a_team_fits() -> None:
    """A file has at most 25,000 values: what many keys have in common belongs into a group."""
    entry = "  user{0}: {{sha256: {1}, group: dev, created: 2026-11-22}}\n"
    text = "".join(entry.format(number, hashlib.sha256(str(number).encode()).hexdigest()) for number in range(3000))
    assert len(ring(f"keys:\n{text}").keys) == 3000
