"""Who asks, and in which session: what Claude Code says in ``metadata.user_id``, for the upstream.

Rules (R26):
* The session id routes requests of one conversation to one prompt cache. It goes up only where the
  profile names a field or a header for it.
* A user id goes up as a hash, or not at all.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import orjson

from gateway.profile import Profile
from gateway.translate.changes import Changes
from gateway.wire.json_text import dumps_request

JSON = dict[str, Any]

MAX_SESSION_ID = 64
"""Characters; upstreams refuse longer keys."""

_OLD_FORM = re.compile(r"user_[0-9a-f]+_account_[0-9a-f-]*_session_([0-9a-f-]{36})")
"""How Claude Code wrote its ids before they became an object."""
_PLAIN = re.compile(r"[A-Za-z0-9._:-]+")


def session_id(body: JSON) -> str | None:
    """The client's session id, plain and at most 64 characters; None when it names none."""
    user_id = _user_id(body)
    identity = _identity(user_id)
    session = identity.get("session_id") if identity is not None else None
    if identity is None and (old := _OLD_FORM.fullmatch(user_id)):
        session = old[1]
    if not isinstance(session, str) or not session:
        return None
    if _PLAIN.fullmatch(session):
        return session[:MAX_SESSION_ID]
    return hashlib.sha256(session.encode("utf-8", "replace")).hexdigest()


def session_headers(body: JSON, profile: Profile) -> dict[str, str]:
    """The header for the session, where the profile names one."""
    if profile.session_header is None:
        return {}
    session = session_id(body)
    return {} if session is None else {profile.session_header: session}


def identity_fields(body: JSON, profile: Profile, changes: Changes) -> JSON:
    """The body fields for session and user."""
    user_id = _user_id(body)
    if not user_id:
        return {}
    wire: JSON = {}
    if profile.session_field is not None and (session := session_id(body)) is not None:
        wire[profile.session_field] = session
    if profile.user_field is None:
        changes.add("dropped", "metadata", "the upstream takes no user id")
        return wire
    identity = _identity(user_id)
    if identity is not None:
        identity.pop("session_id", None)
    user = user_id if identity is None else dumps_request(identity).decode()
    wire[profile.user_field] = hashlib.sha256(user.encode()).hexdigest()
    changes.add("replaced", "metadata.user_id", "sent as a hash")
    return wire


def _user_id(body: JSON) -> str:
    metadata = body.get("metadata")
    user_id = metadata.get("user_id") if isinstance(metadata, dict) else None
    return user_id if isinstance(user_id, str) else ""


def _identity(user_id: str) -> JSON | None:
    """The object that Claude Code writes into the user id, or None."""
    try:
        identity = orjson.loads(user_id)
    except orjson.JSONDecodeError:
        return None
    return identity if isinstance(identity, dict) else None
