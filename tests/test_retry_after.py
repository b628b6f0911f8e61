"""When a client may come again: read from whatever an upstream says, in whole seconds."""

from __future__ import annotations

import pytest

from gateway.translate.retry_after import retry_after_seconds

NOW = "Wed, 21 Oct 2026 07:28:00 GMT"
LONGEST_SENSIBLE = 366 * 24 * 3600

# headers, body, seconds
CASES: dict[str, tuple[dict[str, str], bytes, int | None]] = {
    "nobody said": ({}, b"", None),
    "seconds": ({"retry-after": "30"}, b"", 30),
    "zero": ({"retry-after": "0"}, b"", 0),
    "blanks around": ({"retry-after": " 30 "}, b"", 30),
    "a fraction is rounded up": ({"retry-after": "1.2"}, b"", 2),
    "the past": ({"retry-after": "-5"}, b"", 0),
    "a date": ({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT", "date": NOW}, b"", 10),
    "a date that is over": ({"retry-after": "Wed, 21 Oct 2026 07:20:00 GMT", "date": NOW}, b"", 0),
    "a date and no clock": ({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT"}, b"", None),
    "a date and a broken clock": ({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT", "date": "noon"}, b"", None),
    "a date in another zone": ({"retry-after": "Wed, 21 Oct 2026 09:28:10 +0200", "date": NOW}, b"", 10),
    "milliseconds": ({"retry-after-ms": "1500"}, b"", 2),
    "the seconds win": ({"retry-after": "7", "retry-after-ms": "1500"}, b"", 7),
    "a word, then milliseconds": ({"retry-after": "soon", "retry-after-ms": "1500"}, b"", 2),
    "no number of milliseconds": ({"retry-after-ms": "soon"}, b"", None),
    "Google": ({}, b'{"details": [{"retryDelay": "34.5s"}]}', 35),
    "OpenAI": ({}, b"Please try again in 6.5s. Visit", 7),
    "OpenAI, milliseconds": ({}, b"Please try again in 340ms.", 1),
    "in words": ({}, b"retry after 12 seconds", 12),
    "the header wins": ({"retry-after": "3"}, b"try again in 60s", 3),
    "a broken header, then the body": ({"retry-after": "soon"}, b"try again in 60s", 60),
    "no unit": ({}, b"try again in 5 minutes", None),
    "not in the first 64 KiB": ({}, b" " * 65536 + b"retry in 5s", None),
}

NONSENSE: dict[str, tuple[dict[str, str], bytes]] = {
    "not a number": ({"retry-after": "nan"}, b""),
    "infinity": ({"retry-after": "inf"}, b""),
    "a number with 300 digits": ({"retry-after": "1e300"}, b""),
    "digits without end": ({"retry-after": "9" * 8000}, b""),
    "milliseconds without end": ({"retry-after-ms": "9" * 8000}, b""),
    "a digit that is no number": ({"retry-after-ms": "²"}, b""),
    "a zone beyond all zones": ({"retry-after": "Wed, 21 Oct 2026 07:28:10 +9999999999999999", "date": NOW}, b""),
    "a year beyond all years": ({"retry-after": "Wed, 21 Oct 99999 07:28:10 GMT", "date": NOW}, b""),
    "half a character": ({"retry-after": "\udce9"}, b""),
    "a body without end": ({}, b"try again in " + b"9" * 400 + b"s"),
    "a fraction without end": ({}, b'"retryDelay": "0.' + b"9" * 9000 + b's"'),
}


@pytest.mark.parametrize(("headers", "body", "seconds"), CASES.values(), ids=CASES)
def test_seconds(headers: dict[str, str], body: bytes, seconds: int | None) -> None:
    assert retry_after_seconds(headers, body) == seconds


@pytest.mark.parametrize(("headers", "body"), NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_nothing_or_bounded(headers: dict[str, str], body: bytes) -> None:
    seconds = retry_after_seconds(headers, body)
    assert seconds is None or 0 <= seconds <= LONGEST_SENSIBLE
