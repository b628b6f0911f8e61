"""TranslatedAdapter: what the adapters of all translated wires have in common.

Rule: a subclass says where its API is, what a request becomes, and what reads the answer; the rest is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gateway.adapters.base import MessagesRequest, StreamTranslator, UpstreamRequest
from gateway.adapters.headers import error_context, upstream_headers
from gateway.errors import GatewayError, InvalidRequest
from gateway.routing import Target
from gateway.translate.changes import Changes
from gateway.translate.chat_tools import offer_tools
from gateway.translate.leaked_calls import LeakedCalls
from gateway.translate.request_fields import asked_stops
from gateway.translate.stop_sequences import StopSequences
from gateway.translate.tool_calls import ToolCalls, past_ids
from gateway.translate.upstream_errors import ErrorContext, http_error
from gateway.translate.writer import MessageStreamWriter
from gateway.wire.json_text import TOO_DEEP, dumps_request, without_nul


@dataclass(frozen=True, slots=True)
class AnswerParts:
    """What a stream translator is made of; one per request."""

    writer: MessageStreamWriter
    calls: ToolCalls
    context: ErrorContext
    stop_sequences: StopSequences
    leaked_calls: LeakedCalls | None


class TranslatedAdapter(ABC):
    """Base of the adapters (the Adapter contract of base.py). Stateless."""

    path: ClassVar[str]
    """What follows the target's ``base_url``."""
    accept: ClassVar[str] = "text/event-stream"

    @abstractmethod
    def to_wire(self, request: MessagesRequest, target: Target, changes: Changes) -> dict[str, Any]:
        """The upstream body. Raises InvalidRequest."""

    @abstractmethod
    def reader(self, parts: AnswerParts, request: MessagesRequest, target: Target) -> StreamTranslator:
        """The translator of the answer."""

    def prepare(self, request: MessagesRequest, target: Target) -> UpstreamRequest:
        changes = Changes()
        try:
            wire = self.to_wire(request, target, changes)
        except RecursionError:
            raise InvalidRequest(TOO_DEEP) from None
        return UpstreamRequest(
            url=target.base_url + self.path,
            headers={**upstream_headers(request, target), "accept": self.accept},
            body=without_nul(dumps_request(wire)),
            changes=changes,
        )

    def stream_translator(self, request: MessagesRequest, target: Target) -> StreamTranslator:
        offered = offer_tools(request.body, target.profile, Changes())
        names = offered.client_names
        stops = asked_stops(request.body)
        writer = MessageStreamWriter(request.message_id, request.model, request.input_tokens)
        calls = ToolCalls(
            writer,
            provider=target.provider.name,
            message_id=request.message_id,
            names=names,
            used_ids=past_ids(request.body),
        )
        parts = AnswerParts(
            writer,
            calls,
            error_context(request, target, names),
            StopSequences(stops, enforce=len(stops) > target.profile.stop_limit),
            offered.leaked_calls(target.profile),
        )
        return self.reader(parts, request, target)

    def translate_error(
        self, status: int, headers: Mapping[str, str], body: bytes, request: MessagesRequest, target: Target
    ) -> GatewayError:
        return http_error(status, headers, body, error_context(request, target))
