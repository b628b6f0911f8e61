"""TranslatedAdapter: what the adapters of all translated wires have in common.

Rules:
* A subclass says where its API is, what a request becomes, and what reads the answer; the rest is here.
* What reads the answer knows of the request what an answer depends on, and holds nothing else of it: a stream
  lives for minutes, and the request is a hundred times its size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Set
from functools import partial
from typing import Any, ClassVar, NamedTuple

from gateway.adapters.base import MessagesRequest, StreamTranslator, UpstreamRequest
from gateway.adapters.headers import error_context, upstream_headers
from gateway.errors import GatewayError, InvalidRequest
from gateway.routing import Target
from gateway.translate.changes import Changes
from gateway.translate.chat_tools import Form, OfferedTools, chat_form, offer_tools
from gateway.translate.leaked_calls import LeakedCalls
from gateway.translate.request_fields import asked_stops, refuse_pretence
from gateway.translate.stop_sequences import StopSequences
from gateway.translate.tool_calls import ToolCalls
from gateway.translate.upstream_errors import ErrorContext, http_error
from gateway.translate.writer import MessageStreamWriter
from gateway.wire.json_text import TOO_DEEP, dumps_body


class Asked(NamedTuple):
    """What an answer depends on, of its request."""

    message_id: str
    model: str
    input_tokens: int
    max_tokens: int | None
    stops: tuple[str, ...]
    """The stop sequences."""
    used_ids: Set[str]
    """The ids of the calls in the history."""
    names: dict[str, str]
    """Upstream name -> client name of the offered tools."""
    schemas: Mapping[str, dict[str, Any]]
    """Upstream name -> the types of the arguments, for calls that leak into the text."""


class AnswerParts(NamedTuple):
    """What a stream translator is made of; one per request."""

    writer: MessageStreamWriter
    calls: ToolCalls
    context: ErrorContext
    stop_sequences: StopSequences | None
    """None where the client named none."""
    leaked_calls: LeakedCalls | None


class TranslatedAdapter(ABC):
    """Base of the adapters (the Adapter contract of base.py). Stateless."""

    path: ClassVar[str]
    """What follows the target's ``base_url``."""
    accept: ClassVar[str] = "text/event-stream"
    takes_stops: ClassVar[bool] = True
    """The API has stop sequences; how many, says the profile."""

    @property
    def tool_form(self) -> Form:
        """How the wire takes a tool."""
        return chat_form

    @abstractmethod
    def to_wire(
        self, request: MessagesRequest, target: Target, offered: OfferedTools, changes: Changes
    ) -> dict[str, Any]:
        """The upstream body. Raises InvalidRequest."""

    @abstractmethod
    def reader(self, parts: AnswerParts, asked: Asked, target: Target) -> StreamTranslator:
        """The translator of the answer."""

    def prepare(self, request: MessagesRequest, target: Target) -> UpstreamRequest:
        changes = Changes()
        try:
            refuse_pretence(request.body)
            offered = offer_tools(request.body, target.profile, changes, self.tool_form)
            wire = self.to_wire(request, target, offered, changes)
        except RecursionError:
            raise InvalidRequest(TOO_DEEP) from None
        return UpstreamRequest(
            target.base_url + self.path,
            {**upstream_headers(request, target), "accept": self.accept},
            dumps_body(wire),
            changes,
            translator=partial(self._translator, _asked(request, offered), target),
        )

    def stream_translator(self, request: MessagesRequest, target: Target) -> StreamTranslator:
        offered = offer_tools(request.body, target.profile, Changes(), self.tool_form)
        return self._translator(_asked(request, offered), target)

    def _translator(self, asked: Asked, target: Target) -> StreamTranslator:
        profile, stops = target.profile, asked.stops
        writer = MessageStreamWriter(asked.message_id, asked.model, asked.input_tokens)
        calls = ToolCalls(
            writer,
            provider=target.provider.name,
            message_id=asked.message_id,
            names=asked.names,
            used_ids=asked.used_ids,
        )
        parts = AnswerParts(
            writer,
            calls,
            error_context(asked, target, asked.names),
            StopSequences(stops, enforce=not self.takes_stops or len(stops) > profile.stop_limit) if stops else None,
            LeakedCalls(profile.leaked_calls, asked.schemas) if profile.leaked_calls else None,
        )
        return self.reader(parts, asked, target)

    def translate_error(
        self, status: int, headers: Mapping[str, str], body: bytes, request: MessagesRequest, target: Target
    ) -> GatewayError:
        return http_error(status, headers, body, error_context(request, target))


def _asked(request: MessagesRequest, offered: OfferedTools) -> Asked:
    body = request.body
    return Asked(
        request.message_id,
        body.get("model", ""),
        request.input_tokens,
        body.get("max_tokens"),
        asked_stops(body),
        offered.call_ids,
        offered.listed.client_names,
        offered.listed.schemas,
    )
