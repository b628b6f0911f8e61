"""The contract between the pipeline and an upstream API.

Rules:
* An adapter is stateless: one object serves all requests. What a stream must remember lives in its
  StreamTranslator, one per request.
* Adapters and translators are pure and synchronous: no network, clock, randomness or log.
* Whatever the upstream speaks, a translator's output is the event stream of the Anthropic Messages API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.errors import GatewayError
from gateway.routing import Target
from gateway.translate.changes import Changes
from gateway.translate.usage import Usage


@dataclass(slots=True)
class MessagesRequest:
    """One checked request to ``POST /v1/messages``. Nobody changes it."""

    body: dict[str, Any]
    """The parsed body, as the client sent it."""
    headers: Mapping[str, str] = field(repr=False)
    """The client's headers; names in any case."""
    query: str
    """The raw query string (``beta=true``), empty when there is none."""
    message_id: str
    """``msg_…``: the id of the answer; also the seed of generated tool ids."""
    input_tokens: int
    """The estimate of the prompt's size in tokens, at least 1."""

    @property
    def model(self) -> str:
        """The name that the client asked for; the answer carries it."""
        model: str = self.body["model"]
        return model


@dataclass(slots=True)
class UpstreamRequest:
    """What goes up. Nobody changes it; ``repr`` shows no key."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes
    changes: Changes
    answer: Iterable[bytes] | None = None
    """An embedded adapter's whole answer, in chunks; nothing is sent then."""
    translator: Callable[[], StreamTranslator] | None = None
    """Makes what ``stream_translator`` would make, without looking at the request again; None: ask the adapter."""


class StreamTranslator(Protocol):
    """The state of one answer on its way down.

    ``feed`` and ``close`` raise only GatewayError (UpstreamProtocolError for broken bytes). Before any
    output was returned, the error is still an HTTP error; afterwards it becomes an ``error`` event.
    The same bytes in any split give the same result.
    """

    usage: Usage
    """What the upstream reported so far."""
    stop_reason: str | None
    """The final stop reason, once known."""
    finished: bool
    """The upstream said that its answer ends; only trailing usage may follow."""
    complete: bool
    """Nothing more is expected; stop reading."""

    def feed(self, data: bytes) -> bytes:
        """Upstream bytes in, whole Anthropic events out (often none)."""
        ...

    def close(self) -> bytes:
        """The upstream ended: the closing events. Raises UpstreamProtocolError if it ended too early."""
        ...

    def usage_so_far(self) -> Usage:
        """What an answer that ends here has cost: what the upstream reported by now, or else an estimate."""
        ...

    def keep_alive(self) -> bytes:
        """A whole event that adds nothing to the answer, for clients that take pings for silence; may be empty."""
        ...


class Adapter(Protocol):
    """One upstream API."""

    def prepare(self, request: MessagesRequest, target: Target) -> UpstreamRequest:
        """The upstream request. Raises InvalidRequest for content that the API cannot express."""
        ...

    def stream_translator(self, request: MessagesRequest, target: Target) -> StreamTranslator:
        """The translator of the answer to ``request``."""
        ...

    def translate_error(
        self, status: int, headers: Mapping[str, str], body: bytes, request: MessagesRequest, target: Target
    ) -> GatewayError:
        """The client's error for an upstream answer with an HTTP status other than 200. Header names are lower-case."""
        ...
