"""Worker: the role of one serving process of several, and its end of the channel to the supervisor.

The channel is a socket pair. Down come frames, a length of four bytes and a pickled ``Down``; up go single bytes.

Rules:
* A worker reads no file of the configuration: it gets the supervisor's own Config, so that all have the same.
* When the supervisor is gone, the worker stops as at SIGTERM: nothing serves that nobody looks after.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import socket
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass

from gateway.config import Config
from gateway.server.reloading import News, take_over
from gateway.server.standalone import Announce, probe
from gateway.server.state import GatewayState
from gateway.server.stopping import Signals

log = logging.getLogger("gateway")

LISTENS, TOOK_OVER, LEAVES, LIVES = b"L", b"T", b"E", b"."
"""What a worker says: the port is open; the last frame is in force; it stops; its loop turns."""
HEARTBEAT_SECONDS = 2.0
_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class Down:
    """What the supervisor says."""

    news: News | None
    """To take over; None: find out which providers cannot be reached, and show the table."""


def frame(message: Down) -> bytes:
    """``message`` as bytes for the channel."""
    data = pickle.dumps(message)
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data


class Worker:
    """A Role (run.py)."""

    hears_all = False

    def __init__(self, channel: socket.socket, config: Config, news: News, announce: Announce) -> None:
        """``news``: what is wrong with the files at the start."""
        self._channel = channel
        self._config = config
        self._news = news
        self._announce = announce
        self._port = 0
        self.secrets = config.secrets
        """Every secret that was in force since the start, for redaction."""

    def listening(self, port: int) -> None:
        self._port = port
        self._say(LISTENS)

    def beside(self, state: GatewayState, signals: Signals) -> Iterable[Coroutine[object, object, None]]:
        take_over(state, self._news)
        yield self._listen(state, signals)
        yield self._heartbeat()

    def stopping(self) -> None:
        self._say(LEAVES)

    def _say(self, word: bytes) -> None:
        try:
            self._channel.send(word)
        except OSError:
            return

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            self._say(LIVES)

    async def _listen(self, state: GatewayState, signals: Signals) -> None:
        # A descriptor of its own, which is closed with the reader.
        reader, writer = await asyncio.open_connection(sock=self._channel.dup())
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
                data = await reader.readexactly(length)
                message: Down = await asyncio.to_thread(pickle.loads, data)
                if message.news is None:
                    await probe(self._config, self._port, self._announce)
                    continue
                if message.news.config is not None:
                    self.secrets |= message.news.config.secrets
                take_over(state, message.news)
                self._say(TOOK_OVER)
        except (asyncio.IncompleteReadError, OSError):
            log.error("the supervisor is gone: this worker (%d) stops", os.getpid())
            signals.stop.set()
        finally:
            writer.close()
