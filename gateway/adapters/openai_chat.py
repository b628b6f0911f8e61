"""OpenAI Chat Completions, and every server that speaks it."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.adapters.base import MessagesRequest, StreamTranslator, UpstreamRequest
from gateway.adapters.headers import error_context, upstream_headers
from gateway.errors import GatewayError, InvalidRequest
from gateway.routing import Target
from gateway.translate.changes import Changes
from gateway.translate.chat_request import to_chat
from gateway.translate.chat_stream import ChatStreamTranslator
from gateway.translate.chat_tools import offer_tools
from gateway.translate.request_fields import asked_stops
from gateway.translate.stop_sequences import StopSequences
from gateway.translate.tool_calls import ToolCalls, past_ids
from gateway.translate.upstream_errors import http_error
from gateway.translate.writer import MessageStreamWriter
from gateway.wire.json_text import TOO_DEEP, dumps_request, without_nul

PATH = "/chat/completions"


class OpenAIChatAdapter:
    """``base_url`` + ``/chat/completions``."""

    def prepare(self, request: MessagesRequest, target: Target) -> UpstreamRequest:
        changes = Changes()
        try:
            wire = to_chat(request.body, target.profile, target.provider.name, target.model, changes)
        except RecursionError:
            raise InvalidRequest(TOO_DEEP) from None
        return UpstreamRequest(
            url=target.base_url + PATH,
            headers={**upstream_headers(request, target), "accept": "text/event-stream"},
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
        return ChatStreamTranslator(
            writer,
            calls,
            error_context(request, target, names),
            think_tags=target.profile.think_tags,
            cumulative=target.profile.cumulative_deltas,
            stop_sequences=StopSequences(stops, enforce=len(stops) > target.profile.stop_limit),
            leaked_calls=offered.leaked_calls(target.profile),
        )

    def translate_error(
        self, status: int, headers: Mapping[str, str], body: bytes, request: MessagesRequest, target: Target
    ) -> GatewayError:
        return http_error(status, headers, body, error_context(request, target))
