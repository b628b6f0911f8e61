"""What a client key looks like: ``gw_``, 43 characters of randomness, 6 of checksum.

Rules:
* 256 random bits in base 62 of fixed width (62**43 > 2**256), then their CRC-32, so that one regular expression
  finds keys in text, and a mistyped or cut key is told apart from a stranger's.
* The checksum guards against slips, not against people: what opens is the SHA-256 of the whole text.
"""

from __future__ import annotations

import hashlib
import re
import zlib

PREFIX = "gw_"
RANDOM_BYTES = 32

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_WIDTH = 43
_CHECKSUM_WIDTH = 6
_SHAPE = re.compile(rf"{PREFIX}([0-9A-Za-z]{{{_WIDTH}}})([0-9A-Za-z]{{{_CHECKSUM_WIDTH}}})")


def make(random_bytes: bytes) -> str:
    """The key for 32 bytes from a secure source. Raises ValueError for another number of them."""
    if len(random_bytes) != RANDOM_BYTES:
        raise ValueError(f"a key is made of {RANDOM_BYTES} random bytes, not {len(random_bytes)}")
    body = _base62(int.from_bytes(random_bytes), _WIDTH)
    return PREFIX + body + _checksum(body)


def digest(text: str) -> bytes:
    """SHA-256 of whatever a client sent; 32 bytes."""
    # A header's bytes that are no UTF-8 come as surrogates.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def is_well_formed(text: str) -> bool:
    """Whether this can be a key that a gateway made."""
    match = _SHAPE.fullmatch(text)
    return match is not None and match[2] == _checksum(match[1])


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM_WIDTH)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
