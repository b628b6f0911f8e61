"""References in texts: variables, defaults, files, and the literal dollar."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.config.variables import MAX_FILE_BYTES, MalformedReference, expand

ENV = {"A": "0ne", "EMPTY": "", "WITH_DOLLAR": "${A}"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        ("${A}", "0ne"),
        ("x${A}y${A}", "x0ney0ne"),
        ("${A:-two}", "0ne"),
        ("${NONE:-two}", "two"),
        ("${EMPTY:-two}", "two"),
        ("${NONE:-}", ""),
        ("${EMPTY}", ""),
        ("$$", "$"),
        ("$${A}", "${A}"),
        ("cost: 5$", "cost: 5$"),
        ("$A", "$A"),
        ("${WITH_DOLLAR}", "${A}"),  # once only
    ],
)
def test_expand(text: str, result: str, tmp_path: Path) -> None:
    expanded = expand(text, ENV, tmp_path)
    assert (expanded.text, expanded.missing) == (result, ())


@pytest.mark.parametrize("text", ["${", "${}", "${1A}", "${A-B}", "${A", "${file:}", "a ${A:=b}", "${A:-{}}"])
def test_malformed(text: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedReference):
        expand(text, ENV, tmp_path)


def test_missing_ones_are_named(tmp_path: Path) -> None:
    expanded = expand("${NONE}-${A}-${file:no/such}", ENV, tmp_path)
    assert expanded.missing == ("NONE", "no/such")
    assert expanded.sources == ("NONE", "A", "no/such")
    assert expanded.values == ("0ne",)
    assert "0ne" not in repr(expanded)


def test_files(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("  secret\n\n")
    (tmp_path / "link").symlink_to("key")
    for reference in (f"${{file:{tmp_path}/key}}", "${file:key}", "${file:link}"):
        assert expand(reference, {}, tmp_path).text == "  secret"
    assert expand("${file:key}", {}, tmp_path).files == (tmp_path / "key",)


def test_files_that_cannot_be_read_are_missing(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "big").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    os.mkfifo(tmp_path / "pipe")
    for name in ("directory", "binary", "big", "pipe", "none", "nul\0"):
        assert expand(f"${{file:{name}}}", {}, tmp_path).missing == (name,)
