"""The relay: bytes of one answer in, events out to the client, from one callback to the other.

    upstream -> feed -> translator -> sink

Rules:
* No task, no await and no timer for an event: the handler sleeps until the end.
* Events that arrive in one read leave in one write, at once.
* A full client pauses its own upstream, and only that; an upstream that is paused is not silent.
* An upstream that says nothing for ``idle_timeout`` seconds is cut; after the finish reason, trailing usage
  has GRACE_SECONDS.
* Nothing raises here: a failure ends the relay and is raised by ``run``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from gateway.adapters.base import StreamTranslator
from gateway.errors import GatewayError, UpstreamTimeout
from gateway.server.upstream import UpstreamAnswer
from gateway.translate.fold import MessageFold

GRACE_SECONDS = 2.0
"""How long trailing usage may follow the finish reason (providers.md, R88)."""


class Sink(Protocol):
    """Where events go."""

    headers: Mapping[str, str]
    """What the answer says about itself; of no use once something was written."""
    on_room: Callable[[], None] | None
    """Called when a full sink takes more."""

    def write(self, data: bytes, last: bool = False) -> bool:
        """Whole events; after the ``last`` ones nothing follows. False: enough for now, ``on_room`` tells when there is
        room again."""


class FoldSink:
    """Folds events into one Message, for a client that does not stream."""

    def __init__(self) -> None:
        self.headers: Mapping[str, str] = {}
        self.on_room: Callable[[], None] | None = None
        self.fold = MessageFold()

    def write(self, data: bytes, last: bool = False) -> bool:
        """Raises UpstreamProtocolError for an answer that is too large."""
        self.fold.feed(data)
        return True


class Relay:
    """One answer on its way down; one object per attempt that brought a 200."""

    __slots__ = (
        "_answer",
        "_end",
        "_failure",
        "_heard",
        "_idle_timeout",
        "_in_grace",
        "_loop",
        "_on_first",
        "_over",
        "_paused",
        "_provider",
        "_sink",
        "_timer",
        "_translator",
    )

    def __init__(
        self,
        translator: StreamTranslator,
        sink: Sink,
        *,
        provider: str,
        idle_timeout: float | None,
        on_first: Callable[[], None] | None = None,
    ) -> None:
        """``on_first`` is called once, before the first events are written."""
        self._on_first = on_first
        self._translator = translator
        self._sink = sink
        self._provider = provider
        self._idle_timeout = idle_timeout
        self._loop = asyncio.get_running_loop()
        self._answer: UpstreamAnswer | None = None
        self._end: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._paused = self._in_grace = self._over = False
        self._failure: BaseException | None = None

    async def run(self, answer: UpstreamAnswer) -> None:
        """Relays ``answer`` to its end, and leaves it finished or closed. Raises GatewayError."""
        self._answer = answer
        self._heard = self._loop.time()
        self._sink.on_room = self._resume
        try:
            answer.attach(self)
            if not self._over:
                if self._timer is None:
                    self._look()
                self._end = self._loop.create_future()
                await self._end
            failure, self._failure = self._failure, None
            try:
                if failure is not None:
                    raise failure
            finally:
                del failure  # its traceback holds this frame
            answer.finish()
        except BaseException:
            answer.close()
            raise
        finally:
            self._over = True
            self._answer = self._sink.on_room = None
            if self._timer is not None:
                self._timer.cancel()

    # -- what the upstream calls -------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes of the answer."""
        if self._over:
            return
        self._heard = self._loop.time()
        translator = self._translator
        try:
            out = translator.feed(data)
            if translator.complete:
                self._close(out)
            elif out:
                self._write(out)
            if translator.finished and not (self._in_grace or self._over):
                self._begin_grace()
        except Exception as error:
            self._stop(error)

    def end(self) -> None:
        """The upstream ended."""
        if self._over:
            return
        try:
            self._close()
        except Exception as error:
            self._stop(error)

    def fail(self, error: GatewayError) -> None:
        """The upstream broke off; after the finish reason that is no loss."""
        if self._translator.finished:
            self.end()
        elif not self._over:
            self._stop(error)

    # -- the way down ------------------------------------------------------------------------------------

    def _resume(self) -> None:
        """The sink takes more."""
        if self._paused and self._answer is not None:
            self._paused = False
            self._heard = self._loop.time()
            self._answer.resume()

    def _write(self, out: bytes, last: bool = False) -> None:
        if self._on_first is not None:
            on_first, self._on_first = self._on_first, None
            on_first()
        if not self._sink.write(out, last) and not self._paused and self._answer is not None:
            self._paused = True
            self._answer.pause()

    def _close(self, out: bytes = b"") -> None:
        """Writes ``out`` and the closing events. What came before a broken end is not lost."""
        try:
            closing = self._translator.close()
        except Exception:
            if out:
                self._write(out)
            raise
        if out or closing:
            self._write(out + closing, last=True)
        self._stop(None)

    def _stop(self, failure: BaseException | None) -> None:
        self._over = True
        self._failure = failure
        if self._end is not None and not self._end.done():
            self._end.set_result(None)

    # -- silence -----------------------------------------------------------------------------------------

    def _begin_grace(self) -> None:
        self._in_grace = True
        if self._timer is not None:
            self._timer.cancel()
        self._look()

    def _look(self) -> None:
        """Was there silence for too long? Else this looks again when that may be."""
        if self._over:
            return
        limit = GRACE_SECONDS if self._in_grace else self._idle_timeout
        if limit is None:
            return
        left = limit if self._paused else self._heard + limit - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        elif self._in_grace:
            self.end()
        else:
            self._stop(UpstreamTimeout(f"{self._provider} sent nothing for {limit:g} seconds"))
