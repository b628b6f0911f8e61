"""The Anthropic Messages API itself, and servers that speak it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.adapters.base import MessagesRequest, StreamTranslator, UpstreamRequest
from gateway.adapters.headers import error_context, upstream_headers
from gateway.errors import GatewayError
from gateway.routing import Target
from gateway.translate.changes import Changes
from gateway.translate.passthrough_request import to_anthropic
from gateway.translate.passthrough_stream import PassthroughTranslator
from gateway.translate.request_fields import asked_stops
from gateway.translate.skin_tools import upstream_names
from gateway.translate.stop_sequences import StopSequences
from gateway.translate.upstream_errors import http_error
from gateway.wire.request_reader import dumps_with_tools

PATH = "/v1/messages"
BETA = "beta=true"
DEFAULT_VERSION = "2023-06-01"
"""Sent when the client names none."""


class AnthropicMessagesAdapter:
    """``base_url`` + ``/v1/messages``, ``?beta=…`` and ``anthropic-*`` headers kept."""

    def prepare(self, request: MessagesRequest, target: Target) -> UpstreamRequest:
        changes = Changes()
        names = upstream_names(request.body, target.profile)
        body = to_anthropic(request.body, target.profile, target.name, target.model, names, changes)
        own = {name.lower(): value for name, value in request.headers.items() if name[:10].lower() == "anthropic-"}
        if not target.profile.keep_betas and own.pop("anthropic-beta", None) is not None:
            changes.add("dropped", "anthropic-beta", "the upstream refuses names that it does not know")
        query = f"?{request.query}" if request.query == BETA else _query(request.query, changes)
        return UpstreamRequest(
            target.base_url + PATH + query,
            {
                "anthropic-version": DEFAULT_VERSION,
                **own,
                **upstream_headers(request, target),
                "accept": "text/event-stream",
            },
            dumps_with_tools(body),
            changes,
            translator=_translator(request, target, names),
        )

    def stream_translator(self, request: MessagesRequest, target: Target) -> StreamTranslator:
        return _translator(request, target, upstream_names(request.body, target.profile))()

    def translate_error(
        self, status: int, headers: Mapping[str, str], body: bytes, request: MessagesRequest, target: Target
    ) -> GatewayError:
        return http_error(status, headers, body, error_context(request, target))


def _query(query: str, changes: Changes) -> str:
    """What of the client's query string goes up: its own key could stand there."""
    parts = query.split("&") if query else []
    kept = [part for part in parts if part.partition("=")[0] == "beta"]
    if len(kept) < len(parts):
        changes.add("dropped", "the query string", "only 'beta' means something upstream")
    return f"?{'&'.join(kept)}" if kept else ""


def _translator(request: MessagesRequest, target: Target, names: dict[str, str]) -> Callable[[], StreamTranslator]:
    """Makes what reads the answer; holds nothing of the request but what an answer depends on."""
    stops = asked_stops(request.body)
    context = error_context(request, target, {upstream: client for client, upstream in names.items()})
    message_id, input_tokens, first_party = request.message_id, request.input_tokens, target.profile.first_party
    enforce = len(stops) > target.profile.stop_limit

    def translator() -> StreamTranslator:
        return PassthroughTranslator(
            context,
            message_id=message_id,
            input_tokens=input_tokens,
            first_party=first_party,
            stop_sequences=StopSequences(stops, enforce=enforce) if stops else None,
        )

    return translator
