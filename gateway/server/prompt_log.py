"""PromptLog: whole requests and answers of users who asked for it, in files of their own.

Rules:
* Two must want it: the operator (``gateway serve --log-prompts``) and, until a date, the user's own entry in keys.yaml
  (``log_prompts_until``). Nobody else's words are kept.
* One file for each key, for its owner's eyes (mode 0600), one JSON object a line. Nothing of it goes to the log.
* A disk that takes no more stops no request; the log says so, once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from gateway.access.client_key import ClientKey

if TYPE_CHECKING:
    from gateway.server.relay import Sink

log = logging.getLogger("gateway")

MAX_ANSWER_BYTES = 8 << 20
"""Of one answer's events; what comes after them is left out."""


class Transcript:
    """The words of one request; a Sink (relay.py) that keeps what it passes on."""

    def __init__(self, key: str, request: bytes) -> None:
        self.key = key
        self._request = request
        self._answer = bytearray()
        self._sink: Sink

    def before(self, sink: Sink) -> Transcript:
        """Itself, in front of ``sink``."""
        self._sink = sink
        return self

    @property
    def headers(self) -> Mapping[str, str]:
        return self._sink.headers

    @headers.setter
    def headers(self, headers: Mapping[str, str]) -> None:
        self._sink.headers = headers

    @property
    def on_room(self) -> Callable[[], None] | None:
        return self._sink.on_room

    @on_room.setter
    def on_room(self, on_room: Callable[[], None] | None) -> None:
        self._sink.on_room = on_room

    def write(self, data: bytes, last: bool = False) -> bool:
        self._answer += data[: MAX_ANSWER_BYTES - len(self._answer)]
        return self._sink.write(data, last)

    def line(self, about: Mapping[str, Any]) -> bytes:
        """One line of the file. ``about``: what stands before the words."""
        request = orjson.Fragment(self._request)
        return orjson.dumps({**about, "request": request, "answer": self._answer.decode("utf-8", "replace")}) + b"\n"


class PromptLog:
    """One per process, where the operator wants it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._failed = False

    def transcript(self, key: ClientKey | None, request: bytes) -> Transcript | None:
        """For a request of ``key``; None: this user did not ask for it, or no longer."""
        if key is None or key.log_prompts_until is None or time.time() >= key.log_prompts_until:
            return None
        return Transcript(key.name, request)

    def keep(self, transcript: Transcript, about: Mapping[str, Any]) -> None:
        """Writes it, in a thread."""
        asyncio.get_running_loop().run_in_executor(None, self._write, transcript, about)

    def _write(self, transcript: Transcript, about: Mapping[str, Any]) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self._folder / f"{transcript.key}.jsonl"
            # One write to a file that is only appended to: lines of several processes do not mix.
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                os.write(descriptor, transcript.line(about))
            finally:
                os.close(descriptor)
            self._failed = False
        except (OSError, ValueError) as error:
            if not self._failed:
                self._failed = True
                log.error("--log-prompts: %s cannot be written: %s", self._folder, error)
