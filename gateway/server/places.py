"""Places: the waiting at targets that take so many requests at a time (``max_concurrency``).

Rule: a place is taken until the answer's last byte; whoever leaves, for whatever reason, gives it on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from gateway.resilience.admission import Admission, busy
from gateway.routing import Target

_FREE: AbstractAsyncContextManager[None] = nullcontext()


class Places:
    """One per process."""

    def __init__(self) -> None:
        self._admission: Admission[asyncio.Future[None]] = Admission()

    def of(self, target: Target, client: str) -> AbstractAsyncContextManager[None]:
        """A place at ``target``; ``client`` takes turns with others. Raises TargetBusy."""
        return _FREE if target.profile.max_concurrency is None else self._place(target, client)

    @asynccontextmanager
    async def _place(self, target: Target, client: str) -> AsyncIterator[None]:
        await self._enter(target, client)
        try:
            yield
        finally:
            self._leave(target)

    async def _enter(self, target: Target, client: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = self._admission.enter(target, client, turn)
        if entry == "full":
            raise busy(target)
        if entry == "admitted":
            return
        try:
            async with asyncio.timeout(target.profile.queue_timeout):
                await turn
        except BaseException as reason:
            if not self._admission.withdraw(target, client, turn):
                # It came at the last moment.
                self._leave(target)
            if isinstance(reason, TimeoutError):
                raise busy(target) from None
            raise

    def _leave(self, target: Target) -> None:
        for turn in self._admission.leave(target):
            if not turn.done():
                turn.set_result(None)
