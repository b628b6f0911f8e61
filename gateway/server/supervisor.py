"""Supervisor: starts the workers, starts another when one dies, and hands one configuration to all of them.

Rules:
* It serves nobody and runs no event loop. What the workers need is imported before they are forked, so that
  they share its memory, and a new one serves within some 50 ms.
* It holds the listening sockets: connections to a worker that died wait for the next one, and are not refused.
* It alone reads the file. Workers get its Config, so that they cannot differ, and one that starts after a bad
  save begins with the good one. "reloaded" is logged when all have it.
* A worker that dies is followed by another at once; one that died young, after FIRST_DELAY, doubled each time up
  to MAX_DELAY. One that dies before the gateway was ready ends the start.
"""

from __future__ import annotations

import asyncio
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import NoReturn

from gateway.access.key_ring import KeyRing
from gateway.config import Config
from gateway.server import listening_socket, run, worker
from gateway.server.logs import SafeFormatter
from gateway.server.metrics_board import Board, Page
from gateway.server.reloading import News, Reloading
from gateway.server.run import Place
from gateway.server.service_notify import notify, watchdog_interval
from gateway.server.shared_counters import SharedCounters
from gateway.server.standalone import Announce
from gateway.server.stopping import CUT_SECONDS, STOPPING, end_at_once, terminal_closed
from gateway.server.worker import Down, Worker

log = logging.getLogger("gateway")

QUICK_DEATH_SECONDS = 10.0
FIRST_DELAY = 0.2
MAX_DELAY = 1.0
HUNG_SECONDS = 30.0
"""A worker that says nothing for so long is killed."""
ANSWER_SECONDS = 5.0
"""How long a reload waits for a worker before it is called done."""
PAGES_EACH = 3
"""Pages of the board for each worker: those that leave keep theirs as long as their answers go on."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

LoopFactory = Callable[[], asyncio.AbstractEventLoop] | None


@dataclass(slots=True, eq=False)
class Child:
    """One worker process, as its supervisor knows it."""

    slot: int
    pid: int
    channel: socket.socket
    started: float
    heard: float
    page: Page | None
    """Of the board of metrics, and by its number the place among the counters; None: all are in use."""
    outgoing: bytearray = field(default_factory=bytearray)
    listens: bool = False
    leaving: bool = False


class Supervisor:
    """One per gateway with several workers."""

    def __init__(
        self,
        config: Config,
        keys: KeyRing,
        place: Place,
        count: int,
        reloading: Reloading | None,
        announce: Announce,
        loop_factory: LoopFactory,
    ) -> None:
        self._config = config
        self._keys = keys
        self._errors = News()
        self._place = place
        self._reloading = reloading
        self._announce = announce
        self._loop_factory = loop_factory
        self._selector = selectors.DefaultSelector()
        self._children: list[Child] = []
        self._due = dict.fromkeys(range(count), 0.0)
        """Slot -> when its next worker starts."""
        self._deaths = dict.fromkeys(range(count), 0)
        """Slot -> quick deaths in a row."""
        self._count = count
        self._port = 0
        self._ready = False
        self._status = 0
        self._stop_by: float | None = None
        """Set by the first signal: when what still runs is killed."""
        self._heard_signals: list[int] = []
        self._unsaid: tuple[News, set[Child], float] | None = None
        """A reload that some workers have not confirmed yet, and until when they may."""
        self._had_terminal = os.isatty(0)
        self._board = Board(PAGES_EACH * count)
        self._counters = SharedCounters(PAGES_EACH * count)

    def run(self) -> int:
        """Until a signal; the exit status. Raises OSError when a socket cannot listen."""
        for each in self._place.sockets:
            each.listen(listening_socket.BACKLOG)
        self._port = self._place.sockets[0].getsockname()[1]
        if self._place.steers:
            for each in self._place.steered:
                listening_socket.share_again(each)
        wakeup, told = socket.socketpair()
        for end in (wakeup, told):
            end.setblocking(False)
        self._selector.register(wakeup, selectors.EVENT_READ)
        signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._hear_signal)
        interval = watchdog_interval(os.environ)
        fed = looked = tick = time.monotonic()
        while self._children or (self._stop_by is None and self._due):
            self._start_due()
            self._wait(wakeup)
            now = time.monotonic()
            if now - tick > HUNG_SECONDS / 2:
                # We were stopped, and they with us: their silence means nothing.
                for child in self._children:
                    child.heard = now
            tick = now
            self._reap()
            self._act_on_signals()
            if self._stop_by is None and now - looked >= run.POLL_SECONDS:
                looked = now
                self._look(forced=False)
            self._end_what_is_late(now)
            if interval is not None and now - fed >= interval:
                fed = now
                notify("WATCHDOG=1")
        return self._status

    # -- workers ---------------------------------------------------------------------------------------

    def _start_due(self) -> None:
        now = time.monotonic()
        for slot, due in list(self._due.items()):
            if due <= now and self._stop_by is None:
                del self._due[slot]
                self._start(slot)

    def _start(self, slot: int) -> None:
        ours, theirs = socket.socketpair()
        page = self._board.take()
        if page is None:
            log.warning("too many workers are leaving: the next one keeps limits for itself, and is not in the metrics")
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal between the fork and the child's own handlers would be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._become_worker(slot, theirs, page)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        theirs.close()
        ours.setblocking(False)
        now = time.monotonic()
        child = Child(slot, pid, ours, started=now, heard=now, page=page)
        self._children.append(child)
        self._selector.register(ours, selectors.EVENT_READ, child)

    def _become_worker(self, slot: int, channel: socket.socket, page: Page | None) -> NoReturn:
        status = 1
        try:
            for number, action in zip(
                _SIGNALS, (signal.SIG_DFL, signal.SIG_IGN, signal.SIG_IGN, signal.SIG_DFL), strict=True
            ):
                signal.signal(number, action)
            signal.set_wakeup_fd(-1)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._selector.close()
            for child in self._children:
                child.channel.close()
            place = self._place_of(slot, page)
            role = Worker(channel, self._config, self._errors, self._announce)
            for handler in logging.getLogger().handlers:
                if isinstance(handler.formatter, SafeFormatter):
                    handler.setFormatter(handler.formatter.anew(lambda: role.secrets))
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                runner.run(run.serve(self._config, self._keys, place, role))
            status = 0
        except BaseException:
            log.exception("a defect of the gateway: worker %d ends", os.getpid())
        end_at_once(status)

    def _place_of(self, slot: int, page: Page | None) -> Place:
        """The slot's own socket where each has one; all of them where not. The others' are closed."""
        place, sockets = self._place, self._place.sockets
        if place.inherited or len(sockets) != self._count:
            own = sockets
        else:
            own = (sockets[slot],)
            listening_socket.close([each for each in sockets if each is not own[0]])
        place = replace(place, sockets=own, steers=False, followed=True)
        if page is None:  # one whose numbers cannot be merged answers no scrape
            return replace(place, admin=None)
        return replace(place, page=page, counters=self._counters.of(page.number))

    def _reap(self) -> None:
        for child in list(self._children):
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._bury(child, os.waitstatus_to_exitcode(status))

    def _bury(self, child: Child, status: int) -> None:
        self._hear(child)
        self._children.remove(child)
        self._forget(child)
        if child.page is not None:
            self._board.release(child.page)
            self._counters.release(child.page.number)
        if self._stop_by is not None:
            # One that was told to stop before it could hear is no failure.
            if status and (child.listens or status != -signal.SIGTERM):
                self._status = 1
            return
        if not self._ready:
            log.error("a worker ended with %s before the gateway was ready", _ending(status))
            self._status = 1
            self._stop(time.monotonic() + CUT_SECONDS)
            return
        if child.leaving:
            return
        now = time.monotonic()
        quick = now - child.started < QUICK_DEATH_SECONDS
        deaths = self._deaths[child.slot] = self._deaths[child.slot] + 1 if quick else 0
        delay = min(FIRST_DELAY * 2 ** (deaths - 1), MAX_DELAY) if deaths else 0.0
        self._due[child.slot] = now + delay
        log.error("worker %d ended with %s; another starts in %.1f s", child.pid, _ending(status), delay)

    def _forget(self, child: Child) -> None:
        """Nothing can be said to it any more."""
        if child.channel.fileno() >= 0:
            self._selector.unregister(child.channel)
            child.channel.close()
        self._confirm(child)

    # -- what they say ---------------------------------------------------------------------------------

    def _wait(self, wakeup: socket.socket) -> None:
        due = min((max(due - time.monotonic(), 0.0) for due in self._due.values()), default=run.POLL_SECONDS)
        for key, events in self._selector.select(min(due, run.POLL_SECONDS)):
            if key.data is None:
                wakeup.recv(4096)
                continue
            if events & selectors.EVENT_WRITE:
                self._send(key.data)
            if events & selectors.EVENT_READ:
                self._hear(key.data)

    def _hear(self, child: Child) -> None:
        try:
            words = child.channel.recv(4096)
        except OSError:
            return
        child.heard = time.monotonic()
        if not words:
            self._forget(child)
        for number in words:
            word = bytes((number,))
            if word == worker.LISTENS:
                child.listens = True
                self._be_ready()
            elif word == worker.TOOK_OVER:
                self._confirm(child)
            elif word == worker.LEAVES and self._stop_by is None and not child.leaving:
                log.info("worker %d leaves; another takes its place", child.pid)
                child.leaving = True
                self._due[child.slot] = 0.0

    def _be_ready(self) -> None:
        if self._ready or self._stop_by is not None or self._due or not all(each.listens for each in self._children):
            return
        self._ready = True
        self._announce(self._port, None)
        notify("READY=1")
        self._tell(self._children[0], Down(None))

    def _tell(self, child: Child, message: Down) -> None:
        child.outgoing += worker.frame(message)
        self._send(child)

    def _send(self, child: Child) -> None:
        try:
            while child.outgoing:
                del child.outgoing[: child.channel.send(child.outgoing)]
        except BlockingIOError:
            pass
        except OSError:
            child.outgoing.clear()
        if child.channel.fileno() < 0:
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.outgoing else 0)
        self._selector.modify(child.channel, events, child)

    # -- the configuration -----------------------------------------------------------------------------

    def _look(self, *, forced: bool) -> None:
        if self._reloading is None:
            if forced:
                log.info("SIGHUP: there is no file to read anew in demo mode")
            return
        if forced:
            notify("RELOADING=1", monotonic=True)
        outcome = self._reloading.look(forced=forced)
        if outcome is not None:
            self._say_unsaid()
            self._config = outcome.config or self._config
            self._keys = self._keys if outcome.keys is None else outcome.keys
            self._errors = News(error=outcome.error, keys_error=outcome.keys_error)
            self._unsaid = (outcome, set(self._children), time.monotonic() + ANSWER_SECONDS)
            for child in self._children:
                self._tell(child, Down(outcome))
        elif forced:
            notify("READY=1")

    def _confirm(self, child: Child) -> None:
        if self._unsaid is not None:
            self._unsaid[1].discard(child)
            if not self._unsaid[1]:
                self._say_unsaid()

    def _say_unsaid(self) -> None:
        if self._unsaid is None:
            return
        outcome, silent, _ = self._unsaid
        self._unsaid = None
        outcome.log()
        if silent:
            log.error("workers %s have not taken it over yet", ", ".join(str(child.pid) for child in silent))
        notify("READY=1")

    # -- signals ---------------------------------------------------------------------------------------

    def _hear_signal(self, number: int, frame: FrameType | None) -> None:
        self._heard_signals.append(number)

    def _act_on_signals(self) -> None:
        heard, self._heard_signals = self._heard_signals, []
        for number in heard:
            if number == signal.SIGHUP and not terminal_closed(self._had_terminal):
                if self._stop_by is None:
                    self._look(forced=True)
            elif number != signal.SIGCHLD:
                if self._stop_by is not None:
                    self._end_now(128 + number)
                log.info(STOPPING)
                self._stop(time.monotonic() + self._place.drain_seconds + 3 * CUT_SECONDS + 1)

    def _stop(self, by: float) -> None:
        self._stop_by = by
        notify("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int((self._place.drain_seconds + 10) * 1e6)}")
        if self._place.steers:
            for each in self._place.steered:
                listening_socket.steer_away(each, 1 if each is self._place.admin else len(self._place.sockets))
        listening_socket.close([*self._place.sockets, *self._place.steered])
        for child in self._children:
            os.kill(child.pid, signal.SIGTERM)

    def _end_now(self, status: int) -> NoReturn:
        for child in self._children:
            os.kill(child.pid, signal.SIGKILL)
        for child in self._children:
            os.waitpid(child.pid, 0)
        end_at_once(status)

    def _end_what_is_late(self, now: float) -> None:
        if self._unsaid is not None and now > self._unsaid[2]:
            self._say_unsaid()
        for child in self._children:
            if self._stop_by is not None and now > self._stop_by:
                log.error("worker %d did not end in time: killed", child.pid)
                os.kill(child.pid, signal.SIGKILL)
            elif self._stop_by is None and not child.leaving and now - child.heard > HUNG_SECONDS:
                log.error("worker %d says nothing for %g s: killed", child.pid, HUNG_SECONDS)
                os.kill(child.pid, signal.SIGKILL)


def _ending(status: int) -> str:
    return f"status {status}" if status >= 0 else f"signal {-status}"
