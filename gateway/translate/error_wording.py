"""What the words of an upstream's refusal mean, as one of our errors.

Rules (R110-R119):
* Any wording of a full context becomes ``prompt is too long: N tokens > M maximum``; Claude Code
  compacts when it reads that. Throttling that speaks of tokens stays a rate limit.
* Quota and balance are ``billing_error``, whatever the status: waiting does not help.
* Refused content is the request's fault, never a question of permission.
* The upstream's own codes (``Profile.error_codes``) come first, then wording, then the status; but the
  words of a full context outweigh a code that only means "invalid".
* A refused key is ours to mend: ProviderNotReady, with the provider and the variable to look at.
* The cause survives, without HTML and without our key, as far as the whole answer stays within 2 KiB; a cut
  is marked. Whatever an upstream wrote, it takes no noticeable time: patterns see the two ends of a long text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.errors import (
    BillingRefused,
    GatewayError,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionDenied,
    PromptTooLong,
    ProviderNotReady,
    RateLimited,
    RequestTooLarge,
    UpstreamFailed,
    UpstreamTimeout,
)
from gateway.translate.retry_after import retry_after_seconds
from gateway.translate.upstream_errors import ErrorContext, find_error
from gateway.wire.json_text import dumps, loads_upstream, without_surrogates

MAX_ANSWER_BYTES = 2048
MAX_MESSAGE_BYTES = MAX_ANSWER_BYTES - 192
"""Of the message as JSON; the rest is for the envelope and an event's frame around it."""
MAX_DETAIL_BYTES = 400
"""Of the cause in a message that stands for itself."""
MAX_NAME_BYTES = 300
"""Of a model's name: it is the client's word."""
CUT = " … (cut)"
SEARCHED_CHARACTERS = 4096
"""Some patterns take the square of the length."""
MAX_DIGITS = 15

_OVERFLOW = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"prompt is too long: (?P<n>[\d,]++) tokens? > (?P<m>[\d,]++)",
        r"maximum context length is (?P<m>[\d,]++).*?(?:resulted in|requested(?: about)?) (?P<n>[\d,]++)",
        r"maximum context length is (?P<m>[\d,]++)",
        r"input token count \(?(?P<n>[\d,]++)\)? exceeds the maximum.*?(?P<m>[\d,]++)",
        r"maximum prompt length is (?P<m>[\d,]++).*?contains (?P<n>[\d,]++)",
        r"token count of (?P<n>[\d,]++) exceeds the limit of (?P<m>[\d,]++)",
        r"token limit: (?P<m>[\d,]++) \(requested: (?P<n>[\d,]++)\)",
        r"contains (?P<n>[\d,]++) tokens.*?too large for model with (?P<m>[\d,]++)",
        r"input \((?P<n>[\d,]++) tokens\) is longer than.*?\((?P<m>[\d,]++) tokens\)",
        r"request \((?P<n>[\d,]++) tokens\) exceeds the available context size \((?P<m>[\d,]++)",
        r"exceeds the available context size(?: \((?P<m>[\d,]++))?",
        r"input length \((?P<n>[\d,]++) tokens\) exceeds.*?\((?P<m>[\d,]++) tokens\)",
        r"input length (?P<n>[\d,]++) exceeds the maximum allowed input length of (?P<m>[\d,]++)",
        r"prompt has (?P<n>[\d,]++) tokens, but the configured context size is (?P<m>[\d,]++)",
        r"first (?P<n>[\d,]++) tokens when context.*?context length of only (?P<m>[\d,]++)",
        r"length should be \[1, ?(?P<m>[\d,]++)\]",
        r"(?:context|input) length and `?max_tokens`? exceed",
        r"(?:exceed\w*|longer than|greater than|larger than|over)(?: the| this| model'?s?| its|\s)*"
        r"(?:max\w* )?(?:model )?(?:context|token|prompt|input|sequence)[ _]?(?:length|window|size|limit)",
        r"context[ _](?:length|window|size)[ _](?:is |has been |was )?(?:exceeded|exceeds|overflow)",
        r"exceed_context_size|context_length_exceeded|model_context_window_exceeded|context overflow",
        r"(?:prompt|input|request|conversation) (?:token length |length )?(?:is )?too (?:long|large)(?! for the)",
        r"prompt exceeds max(?:imum)? length",
        r"reduce the length of the (?:messages|prompt|input)",
        r"too many (?:input )?tokens",
        r"max(?:imum)? (?:input|prompt) tokens",
    )
)
_OVERFLOW_CODES = frozenset(("context_length_exceeded", "exceed_context_size_error"))
"""Codes that leave no doubt, whatever else the text says."""
_THROTTLE = re.compile(
    r"rate.?limit|throttl|too many requests|per (?:minute|second|hour|day)|\b[TR]P[MD]\b|quota|"
    r"try again (?:in|later|after)",
    re.IGNORECASE,
)
_ROOM = re.compile(
    r"maximum context length is ([\d,]++).*?\(([\d,]++) [^,;)]*?(?:messages|prompt|input)[^,;)]*[,;] ?"
    r"([\d,]++) [^)]*?(?:completion|output)",
    re.IGNORECASE | re.DOTALL,
)
_BILLING = re.compile(
    r"insufficient[ _](?:quota|balance|credits?|funds)|exceeded_current_quota|"
    r"billing[ _](?:hard[ _])?(?:limit|not)|spend[ _]limit|out of credits|payment required|balance is (?:too low|not)|"
    r"quota(?:Id|_id)?\W+\w*PerDay|add (?:more )?credits",
    re.IGNORECASE,
)
_CURRENT_QUOTA = re.compile(r"exceeded your current quota", re.IGNORECASE)
"""An empty purse, unless a time to wait stands beside it."""
_MODERATION = re.compile(
    r"content[ _]filter|content management policy|moderation|flagged|sensitive content|safety system|"
    r"data_inspection_failed",
    re.IGNORECASE,
)

_BAD_KEY = re.compile(
    r"API_KEY_INVALID|api key (?:is )?(?:not valid|invalid)|(?:invalid|incorrect) api key", re.IGNORECASE
)
_NO_IMAGES = re.compile(
    r"image(?: input|s)?(?:_url)? (?:is|are) not supported|(?:does not|doesn't) support (?:image|vision)", re.IGNORECASE
)
"""Some say it with a 500, which a client would repeat."""

_BY_NAME: dict[str, type[GatewayError]] = {
    "invalid_request_error": InvalidRequest,
    "billing_error": BillingRefused,
    "not_found_error": NotFound,
    "request_too_large": RequestTooLarge,
    "rate_limit_error": RateLimited,
    "api_error": UpstreamFailed,
    "timeout_error": UpstreamTimeout,
    "overloaded_error": Overloaded,
    "permission_error": PermissionDenied,
}
"""The names that ``Profile.error_codes`` may give, with ``prompt_too_long`` and ``provider_not_ready``."""

_BY_STATUS: dict[int, type[GatewayError]] = {
    402: BillingRefused,
    404: NotFound,
    408: UpstreamTimeout,
    # A conflict, or too early: with others, and only now.
    409: UpstreamFailed,
    413: RequestTooLarge,
    425: UpstreamFailed,
    429: RateLimited,
    503: Overloaded,
    504: UpstreamTimeout,
    529: Overloaded,
}


_STATUS = re.compile(r"[45]\d\d", re.ASCII)
_STATUS_OF_TYPE = {
    **{name: kind.default_status for name, kind in _BY_NAME.items()},
    "authentication_error": 401,
    "permission_error": 403,
    "insufficient_quota": 429,
    "server_error": 500,
}
"""What an error object's ``type`` says where no number does."""


@dataclass(frozen=True, slots=True)
class _Cause:
    message: str
    code: str = ""
    kind: str = ""
    text: str = ""
    """What it said, for the patterns."""
    numbers: tuple[int, int] | None = None
    """(tokens, maximum), where they have fields of their own."""


def from_body(status: int, headers: Mapping[str, str], body: bytes, context: ErrorContext) -> GatewayError:
    """The error for the body of an answer with an error's status."""
    return _classify(status, _read_body(body), context, retry_after_seconds(headers, body))


def from_payload(error: Any, context: ErrorContext) -> GatewayError:
    """The error for an error object inside a 200."""
    cause = _read_payload(error)
    return _classify(_status_of(error), cause, context, retry_after_seconds({}, cause.text.encode()))


# -- reading ---------------------------------------------------------------------------------------------


def _read_body(body: bytes) -> _Cause:
    text = body.strip()
    if not text:
        return _Cause("", text="")
    try:
        payload = loads_upstream(text)
    except ValueError:
        if text[:1] == b"<" or b"<html" in text[:500].lower():
            return _Cause("an HTML page instead of JSON")
        plain = text.decode("utf-8", "replace")
        return _Cause(plain, text=_ends(plain))
    if isinstance(payload, list) and payload:
        payload = payload[0]
    if isinstance(payload, dict):
        return _read_payload(find_error(payload) or payload)
    return _read_payload(payload)


def _read_payload(error: Any) -> _Cause:
    if isinstance(error, dict) and isinstance(error.get("error"), dict | str) and error["error"]:
        error = error["error"]
    if not isinstance(error, dict):
        return _Cause(_text(error), text=_ends(_text(error)))
    metadata = error.get("metadata") if isinstance(error.get("metadata"), dict) else {}
    message = _text(error.get("message") or error.get("msg") or error.get("detail") or error.get("status_msg"))
    raw = _text(metadata.get("raw")) if metadata else ""
    if raw:
        message = f"{message}: {raw}" if message else raw
    code = error.get("code")
    kind = _text(error.get("type") or error.get("status"))
    tokens, window = _count(error.get("n_prompt_tokens")), _count(error.get("n_ctx"))
    return _Cause(
        message or _text(error)[:500],
        code=_ends(_text(code)),
        kind=_ends(kind),
        text=_ends(_text(error)),
        numbers=None if tokens is None or window is None else (tokens, window),
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 10**MAX_DIGITS else None


def _ends(text: str) -> str:
    """The beginning and the end of a long text."""
    if len(text) <= SEARCHED_CHARACTERS:
        return text
    part = SEARCHED_CHARACTERS // 4
    return f"{text[: 3 * part]} … {text[-part:]}"


def _text(value: Any) -> str:
    if value is None:
        return ""
    try:
        return without_surrogates(value if isinstance(value, str) else str(value))
    except RecursionError:
        return "an error that is nested too deeply"


def _status_of(error: Any) -> int:
    """The HTTP status that an error object claims, else 502. Codes like 1008 are no statuses."""
    if isinstance(error, dict):
        for name in ("status_code", "http_code", "code", "status"):
            value = error.get(name)
            if isinstance(value, str) and _STATUS.fullmatch(value):
                value = int(value)
            if isinstance(value, int) and 400 <= value < 600:
                return value
        kind = error.get("type")
        nested = error.get("error")
        if isinstance(nested, dict):
            return _status_of({**nested, "error": None})
        return _STATUS_OF_TYPE.get(kind, 502) if isinstance(kind, str) else 502
    return 502


# -- classifying -----------------------------------------------------------------------------------------


def _classify(status: int, cause: _Cause, context: ErrorContext, retry_after: int | None) -> GatewayError:
    named = context.codes.get(cause.code) or context.codes.get(cause.kind)
    text = f"{cause.text} {cause.code} {cause.kind}"
    # One code often covers everything that is wrong with a request; the words tell what.
    vague = named is None or named == "invalid_request_error"
    if named == "prompt_too_long" or (vague and _is_overflow(status, cause, text)):
        return _overflow(cause, context)
    billing = _BILLING.search(text) or (retry_after is None and _CURRENT_QUOTA.search(text))
    about_the_key = status in (401, 403) and not billing and not _MODERATION.search(text)
    about_the_key = about_the_key or (status == 400 and _BAD_KEY.search(text) is not None)
    if named == "provider_not_ready" or (named is None and about_the_key):
        return _not_ready(cause, context)
    before = after = ""
    if named in _BY_NAME:
        kind = _BY_NAME[named]
    elif billing:
        kind = BillingRefused
    elif _MODERATION.search(text) and status in (400, 403, 422):
        kind = InvalidRequest
    elif _NO_IMAGES.search(text):
        kind = InvalidRequest
        after = " (`images: false` for this model in providers.yaml makes them placeholders)"
    else:
        kind = _BY_STATUS.get(status) or (UpstreamFailed if status >= 500 else InvalidRequest)
    if kind is NotFound:
        asked, model = shortened(context.asked, MAX_NAME_BYTES), shortened(context.model, MAX_NAME_BYTES)
        before = f"model: {asked} goes to {context.provider}/{model}, which is not there. "
    if kind is RequestTooLarge:
        before, after = "prompt is too long (", f"{after})"
    own_status = status if kind is UpstreamFailed and 500 <= status < 600 else None
    message, said = _message(cause, context, before, after)
    return _quoting(kind(message, status=own_status, retry_after=retry_after), cause, said)


def _is_overflow(status: int, cause: _Cause, text: str) -> bool:
    if status not in (400, 413, 422, 500, 502) or not cause.text:
        return False
    if cause.numbers is not None:
        return True
    if not any(pattern.search(text) for pattern in _OVERFLOW):
        return False
    return cause.code in _OVERFLOW_CODES or cause.kind in _OVERFLOW_CODES or not _THROTTLE.search(text)


def _overflow(cause: _Cause, context: ErrorContext) -> GatewayError:
    detail, said = _message(cause, context, room=MAX_DETAIL_BYTES)
    return _quoting(_too_long(cause, detail), cause, said)


def _too_long(cause: _Cause, detail: str) -> GatewayError:
    room = _ROOM.search(cause.text)
    if room:
        window, prompt, output = (_number(group) or 0 for group in room.groups())
        if prompt <= window < prompt + output:
            # Claude Code parses this form and asks again with a smaller max_tokens (client.md, section 3).
            return InvalidRequest(
                f"input length and `max_tokens` exceed context limit: {prompt} + {output} > {window} ({detail})"
            )
    if cause.numbers is not None:
        return PromptTooLong(*cause.numbers, detail=detail)
    for pattern in _OVERFLOW:
        found = pattern.search(cause.text)
        if found:
            groups = found.groupdict()
            tokens, maximum = _number(groups.get("n")), _number(groups.get("m"))
            if tokens is not None and maximum is not None:
                return PromptTooLong(tokens, maximum, detail)
    return PromptTooLong(detail=detail)


def _number(text: str | None) -> int | None:
    digits = re.sub(r"\D", "", text or "")
    return int(digits) if 0 < len(digits) <= MAX_DIGITS else None


def _not_ready(cause: _Cause, context: ErrorContext) -> GatewayError:
    where = context.key_source or f"providers.{context.provider}.api_key"
    before = f"{context.provider} refused the gateway's key; look at {where}. "
    message, said = _message(cause, context, before)
    return _quoting(ProviderNotReady(message), cause, said)


def _quoting(error: GatewayError, cause: _Cause, said: str) -> GatewayError:
    error.quoted = said if cause.text else ""
    return error


def _message(
    cause: _Cause, context: ErrorContext, before: str = "", after: str = "", room: int = MAX_MESSAGE_BYTES
) -> tuple[str, str]:
    """The cause between ``before`` and ``after``, and alone; it takes what ``room``, in bytes of JSON, leaves it."""
    said = cause.message.strip() or "no reason given"
    if context.secret:
        # Before the cut, which might leave half of it.
        said = said.replace(context.secret, "[key]")
    # These bytes end up in a terminal.
    said = "".join(char if char.isprintable() or char in "\n\t" else " " for char in said[:MAX_MESSAGE_BYTES])
    before = f"{before}{context.provider}: "
    said = shortened(said, room - _size(before + after))
    return f"{before}{said}{after}", said


def shortened(text: str, room: int) -> str:
    """As much of ``text`` as fits into ``room`` bytes of JSON, whole characters, with CUT at its end if it did not."""
    if _size(text) <= room:
        return text
    room -= _size(CUT)
    for place, char in enumerate(text):
        room -= _size(char)
        if room < 0:
            return text[:place].rstrip() + CUT
    return text


def _size(text: str) -> int:
    """Bytes as a part of a JSON text."""
    return len(dumps(text)) - 2
