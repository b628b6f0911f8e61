"""OpenAI Chat Completions, and every server that speaks it."""

from __future__ import annotations

from typing import Any

from gateway.adapters.base import MessagesRequest, StreamTranslator
from gateway.adapters.translated import AnswerParts, Asked, TranslatedAdapter
from gateway.routing import Target
from gateway.translate.changes import Changes
from gateway.translate.chat_request import to_chat
from gateway.translate.chat_stream import ChatStreamTranslator
from gateway.translate.chat_tools import OfferedTools


class OpenAIChatAdapter(TranslatedAdapter):
    """``base_url`` + ``/chat/completions``."""

    path = "/chat/completions"

    def to_wire(
        self, request: MessagesRequest, target: Target, offered: OfferedTools, changes: Changes
    ) -> dict[str, Any]:
        return to_chat(request.body, target.profile, target.provider.name, target.model, offered, changes)

    def reader(self, parts: AnswerParts, asked: Asked, target: Target) -> StreamTranslator:
        return ChatStreamTranslator(
            parts.writer,
            parts.calls,
            parts.context,
            think_tags=target.profile.think_tags,
            cumulative=target.profile.cumulative_deltas,
            stop_sequences=parts.stop_sequences,
            leaked_calls=parts.leaked_calls,
        )
