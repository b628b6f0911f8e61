"""What a failed attempt means for the next one: one table.

The error says what it is a fact about (``GatewayError.scope``); the table says who may still help:

| scope      | errors                             | same again | other key or address | next target    |
|------------|------------------------------------|------------|----------------------|----------------|
| `moment`   | 408, 409, 5xx, no connection,      | yes        | another address      | yes            |
|            | a broken or an in-band failure     |            |                      |                |
| `quota`    | 429                                | in a while | yes                  | yes            |
| `endpoint` | 401, 402, 403; an address that no  | no         | yes                  | yes            |
|            | name, TLS or URL leads to          |            |                      |                |
| `target`   | 404                                | no         | no                   | yes            |
| `room`     | our own ``max_concurrency``        | no         | no                   | yes            |
| `size`     | a full context, 413                | no         | no                   | ``on_overflow``|
| `request`  | every other 400; our own defects   | no         | no                   | no             |

Of several errors the client sees the one that tells it most (``rank``), the first of equals: a full context,
which it can act on; then what passes by itself; then what is wrong with the request or with a target; last
what only this gateway said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.errors import GatewayError, Scope


@dataclass(frozen=True, slots=True)
class Meaning:
    """One row of the table."""

    rank: int
    same: bool = False
    """The same endpoint may help, a little later."""
    endpoint: bool = False
    """Another endpoint of the provider may help."""
    address: bool = False
    """Of those only one with another address."""
    target: bool = False
    """Another target may help."""
    larger: bool = False
    """Only a target with a larger window may help."""
    sick: bool = False
    """It counts against the target: circuit_breaker.py."""
    rests: bool = False
    """The endpoint is left alone for a time."""


MEANINGS: Mapping[Scope, Meaning] = {
    "size": Meaning(5, larger=True),
    "moment": Meaning(4, same=True, endpoint=True, address=True, target=True, sick=True),
    "quota": Meaning(4, same=True, endpoint=True, target=True, rests=True),
    "request": Meaning(3),
    "endpoint": Meaning(2, endpoint=True, target=True, rests=True),
    "target": Meaning(2, target=True),
    "room": Meaning(1, target=True),
}


def meaning_of(error: GatewayError) -> Meaning:
    """The row for ``error``."""
    return MEANINGS[error.scope]


def reason(error: GatewayError) -> str:
    """``503 overloaded_error``: short enough for a header, and without any words of the upstream's."""
    return f"{error.status} {error.error_type}"
