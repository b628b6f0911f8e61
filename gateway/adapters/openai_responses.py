"""OpenAI's Responses API, and every server that speaks it."""

from __future__ import annotations

from typing import Any

from gateway.adapters.base import MessagesRequest, StreamTranslator
from gateway.adapters.translated import AnswerParts, Asked, TranslatedAdapter
from gateway.routing import Target
from gateway.translate.changes import Changes
from gateway.translate.chat_tools import Form, OfferedTools
from gateway.translate.responses_request import max_output_tokens, responses_form, to_responses
from gateway.translate.responses_stream import ResponsesStreamTranslator


class OpenAIResponsesAdapter(TranslatedAdapter):
    """``base_url`` + ``/responses``."""

    path = "/responses"
    takes_stops = False

    @property
    def tool_form(self) -> Form:
        return responses_form

    def to_wire(
        self, request: MessagesRequest, target: Target, offered: OfferedTools, changes: Changes
    ) -> dict[str, Any]:
        return to_responses(request.body, target.profile, target.provider.name, target.model, offered, changes)

    def reader(self, parts: AnswerParts, asked: Asked, target: Target) -> StreamTranslator:
        return ResponsesStreamTranslator(
            parts.writer,
            parts.calls,
            parts.context,
            think_tags=target.profile.think_tags,
            cumulative=target.profile.cumulative_deltas,
            stop_sequences=parts.stop_sequences,
            leaked_calls=parts.leaked_calls,
            max_output_tokens=max_output_tokens({"max_tokens": asked.max_tokens}, target.profile, Changes()),
        )
