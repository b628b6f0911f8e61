"""Who a presented key is, and what somebody is told whose key opens nothing."""

from __future__ import annotations

import ast
import hmac
import pickle
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from gateway.access import key_ring
from gateway.access.client_key import ClientKey
from gateway.access.key_ring import KeyRing
from gateway.access.key_text import digest, make
from gateway.errors import AuthenticationFailed

NOW = 1_000_000.0
ANNA, BOB, OLD, OFF, OVER, STRANGER = (make(bytes([number]) * 32) for number in range(6))
BY_HAND = "a-token-that-somebody-chose"
RING = KeyRing(
    (
        ClientKey("anna", "anna", digests=((digest(ANNA), None), (digest(OLD), NOW + 60))),
        ClientKey("bob", "bob", digests=((digest(BOB), None), (digest(BY_HAND), NOW + 60))),
        ClientKey("off", "off", disabled=True, digests=((digest(OFF), None),)),
        ClientKey("over", "over", expires=NOW + 10, digests=((digest(OVER), None),)),
    )
)


def refusal(presented: str, now: float = NOW, ring: KeyRing = RING) -> str:
    with pytest.raises(AuthenticationFailed) as caught:
        ring.identify(presented, now)
    assert (caught.value.status, caught.value.should_retry) == (401, False)
    assert presented == "" or presented not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("presented", "now", "name"),
    [
        (ANNA, NOW, "anna"),
        (ANNA, NOW + 1e9, "anna"),
        (OLD, NOW + 59.9, "anna"),
        (BOB, NOW, "bob"),
        (BY_HAND, NOW, "bob"),
        (OVER, NOW + 9.9, "over"),
    ],
)
def test_a_key_opens(presented: str, now: float, name: str) -> None:
    assert RING.identify(presented, now) is RING.get(name)


UNKNOWN = "does not know this key"
# presented, seconds from NOW, what is said
CLOSED: dict[str, tuple[str, float, str]] = {
    "nothing": ("", 0, UNKNOWN),
    "another product's": ("sk-ant-REDACTED", 0, "its own begin with gw_"),
    "a stranger's": (STRANGER, 0, "may have been revoked"),
    "cut": (ANNA[:-1], 0, "mistyped or cut"),
    "longer": (ANNA + "x", 0, "mistyped or cut"),
    "one character wrong": ("gw_1" + ANNA[4:], 0, "mistyped or cut"),
    "other case": (ANNA.upper(), 0, UNKNOWN),
    "blanks around": (f" {ANNA}", 0, UNKNOWN),
    "its digest": (digest(ANNA).hex(), 0, UNKNOWN),
    "not ASCII": ("gw_ö", 0, "mistyped or cut"),
    "no UTF-8": (b"\xff\xfe".decode("utf-8", "surrogateescape"), 0, UNKNOWN),
    "disabled": (OFF, 0, "the key off is disabled"),
    "expired": (OVER, 10, "the key over has expired"),
    "rotated away": (OLD, 60, "the key anna was replaced"),
}


@pytest.mark.parametrize(("presented", "later", "said"), CLOSED.values(), ids=CLOSED)
def test_a_key_does_not_open(presented: str, later: float, said: str) -> None:
    assert said in refusal(presented, NOW + later)


def test_the_end_of_a_key_ends_its_old_one_too() -> None:
    key = ClientKey("anna", "anna", expires=NOW, digests=((digest(ANNA), None), (digest(OLD), NOW + 60)))
    for presented in (ANNA, OLD):
        assert "has expired" in refusal(presented, NOW, KeyRing((key,)))


def test_only_one_that_never_had_a_file_asks_for_no_key() -> None:
    assert not KeyRing()
    assert KeyRing(required=True)
    assert RING
    assert UNKNOWN in refusal(ANNA, ring=KeyRing(required=True))


def test_workers_get_it_whole() -> None:
    copy = pickle.loads(pickle.dumps(RING))
    assert copy == RING
    assert copy.identify(ANNA, NOW) == RING.get("anna")
    assert "mistyped" in refusal(ANNA[:-1], ring=copy)


def test_it_is_frozen_and_shows_no_digest() -> None:
    with pytest.raises(FrozenInstanceError):
        RING.keys = ()  # type: ignore[misc]
    for shown in (repr(RING), str(RING), repr(RING.get("anna"))):
        assert "anna" in shown
        assert digest(ANNA).hex() not in shown
        assert repr(digest(ANNA))[2:-1] not in shown


def test_rings_are_equal_when_their_keys_are() -> None:
    assert KeyRing(RING.keys) == RING
    assert KeyRing((*RING.keys[1:], replace(RING.keys[0], disabled=True))) != RING


# -- X4 ------------------------------------------------------------------------------------------------------


def test_digests_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[Any, Any]] = []

    def compare_digest(known: bytes, offered: bytes) -> bool:
        compared.append((known, offered))
        return hmac.compare_digest(known, offered)

    monkeypatch.setattr(key_ring, "hmac", type("hmac", (), {"compare_digest": staticmethod(compare_digest)}))
    RING.identify(ANNA, NOW)
    assert compared == [(digest(ANNA), digest(ANNA))]


def test_what_is_looked_up_is_the_digest_and_never_the_key() -> None:
    """Nothing but ``digest`` and the words for a stranger get what was presented."""
    tree = ast.parse(Path(str(key_ring.__file__)).read_text(encoding="utf-8"))
    (identify,) = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "identify")
    used = [node for node in ast.walk(identify) if isinstance(node, ast.Name) and node.id == "presented"]
    calls = [
        node.func.id
        for node in ast.walk(identify)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and set(node.args) & set(used)
    ]
    assert sorted(calls) == ["_stranger", "digest"]
    assert len(used) == 2
