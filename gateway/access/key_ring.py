"""KeyRing: the client keys of one version of keys.yaml, and who a presented key is.

Rules:
* Frozen, and picklable: workers get it whole. It holds digests, no key, and ``repr`` shows none of them.
* A key is found by its SHA-256 and then compared in constant time.
* Why a key does not open is told only to who holds it: every other text is a typo or unknown.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from gateway.access.client_key import ClientKey
from gateway.access.key_text import PREFIX, digest, is_well_formed
from gateway.errors import AuthenticationFailed

_ASK = "ask whoever runs this gateway"


@dataclass(frozen=True, slots=True)
class KeyRing:
    """True while clients need a key: it holds one, or there is a key file.

    So a gateway whose last key was revoked admits nobody, and one that never had a key file has no key check.
    """

    keys: tuple[ClientKey, ...] = ()
    """In the order of the file; no name and no digest stands in two of them."""
    required: bool = False
    """There is a key file."""
    warnings: tuple[str, ...] = ()
    """What is worth knowing and stops nothing, one line each."""
    _entries: dict[bytes, tuple[bytes, ClientKey, float | None]] = field(init=False, repr=False, compare=False)
    """Digest -> the same, whose it is, and until when."""

    def __post_init__(self) -> None:
        entries = {known: (known, key, until) for key in self.keys for known, until in key.digests}
        object.__setattr__(self, "_entries", entries)

    def __bool__(self) -> bool:
        return self.required or bool(self.keys)

    def get(self, name: str) -> ClientKey | None:
        """The entry of this name."""
        return next((key for key in self.keys if key.name == name), None)

    def identify(self, presented: str, now: float) -> ClientKey:
        """Whose key this is at ``now`` (seconds since the epoch). Raises AuthenticationFailed."""
        offered = digest(presented)
        found = self._entries.get(offered)
        if found is None or not hmac.compare_digest(found[0], offered):
            raise AuthenticationFailed(_stranger(presented))
        _, key, until = found
        if key.disabled:
            raise AuthenticationFailed(f"the key {key.name} is disabled: {_ASK}")
        if key.expires is not None and now >= key.expires:
            raise AuthenticationFailed(f"the key {key.name} has expired: {_ASK} for a new one")
        if until is not None and now >= until:
            raise AuthenticationFailed(f"the key {key.name} was replaced by a new one: use that, or {_ASK}")
        return key


def _stranger(presented: str) -> str:
    """What to tell somebody whose key is not here."""
    if not presented.startswith(PREFIX):
        return f"this gateway does not know this key (its own begin with {PREFIX}): {_ASK} for one"
    if not is_well_formed(presented):
        return "this key is mistyped or cut short, its checksum is wrong: copy it again, whole"
    return f"this gateway does not know this key, it may have been revoked: {_ASK} for a new one"
