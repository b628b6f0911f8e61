"""The text of a key: its shape, its checksum, and that nothing of its randomness is lost."""

from __future__ import annotations

import hashlib
import re
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.key_text import PREFIX, RANDOM_BYTES, digest, is_well_formed, make

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
DOCUMENT = Path(__file__).parents[2] / "docs" / "keys.md"
SECRETS = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)
KEY = make(bytes(range(32)))


def number(text: str) -> int:
    """What base-62 digits mean, read by another hand."""
    value = 0
    for digit in text:
        value = value * 62 + DIGITS.index(digit)
    return value


@given(SECRETS)
def test_a_key_holds_all_of_its_bytes_and_their_checksum(secret: bytes) -> None:
    key = make(secret)
    body, checksum = key[3:46], key[46:]
    assert is_well_formed(key)
    assert number(body).to_bytes(RANDOM_BYTES) == secret
    assert number(checksum) == zlib.crc32(body.encode())
    assert len(key) == 52


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, b"\0" * 31 + b"\1"])
def test_the_width_is_fixed(secret: bytes) -> None:
    assert re.fullmatch(r"gw_[0-9A-Za-z]{49}", make(secret))


def test_a_known_key_stays_what_it_is() -> None:
    """Keys in use must be known to every later version, too."""
    assert KEY == "gw_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf1Yo7hP"


def test_the_expression_of_the_document_finds_keys_in_text() -> None:
    (expression,) = re.findall(r"^(\\bgw_.*)$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    text = f'{{"env": {{"ANTHROPIC_AUTH_TOKEN": "{KEY}"}}}} gw_short {KEY}0 export K={KEY}\n'
    assert re.findall(expression, text) == [KEY, KEY]


@given(SECRETS, st.integers(0, 51), st.sampled_from(DIGITS))
def test_one_wrong_character_is_seen(secret: bytes, place: int, character: str) -> None:
    key = make(secret)
    assert is_well_formed(key[:place] + character + key[place + 1 :]) == (key[place] == character)


@given(SECRETS, st.integers(0, 50))
def test_two_characters_in_the_wrong_order_are_seen(secret: bytes, place: int) -> None:
    key = make(secret)
    swapped = key[:place] + key[place + 1] + key[place] + key[place + 2 :]
    assert is_well_formed(swapped) == (swapped == key)


@given(st.text())
def test_other_texts_are_no_keys(text: str) -> None:
    assert not is_well_formed(text)
    assert not is_well_formed(PREFIX + text)


@pytest.mark.parametrize(
    "text", ["", PREFIX, KEY[:-1], KEY + "0", " " + KEY, KEY + "\n", KEY.upper(), KEY.replace("gw_", "gw-"), KEY[3:]]
)
def test_slips(text: str) -> None:
    assert not is_well_formed(text)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_less_randomness_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        make(bytes(length))


@pytest.mark.parametrize("text", ["", KEY, "töken", b"\xff\xfe".decode("utf-8", "surrogateescape"), "\ud800"])
def test_every_text_has_a_digest(text: str) -> None:
    assert digest(text) == hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
