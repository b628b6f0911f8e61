"""What systemd wants to know of a service (sd_notify(3)): one datagram for each piece of news.

Rules:
* Without NOTIFY_SOCKET nothing is sent; news that nobody takes is no trouble of ours.
* The watchdog is fed by who must be alive: the event loop, or the supervisor of the workers.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


def notify(*news: str, monotonic: bool = False) -> None:
    """Sends e.g. ``READY=1``; ``monotonic`` adds the time, which RELOADING=1 wants (systemd >= 253)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if monotonic:
        news = (*news, f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
    # '@' stands for the NUL with which an abstract address begins.
    address = "\0" + address[1:] if address[0] == "@" else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.connect(address)
            sender.send("\n".join(news).encode())
    except OSError:
        return


def watchdog_interval(env: Mapping[str, str]) -> float | None:
    """Seconds between two ``WATCHDOG=1``, half of what systemd allows; None: it does not ask this process."""
    if not env.get("NOTIFY_SOCKET") or env.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    allowed = env.get("WATCHDOG_USEC", "")
    if not allowed.isascii() or not allowed.isdigit() or int(allowed) == 0:
        return None
    return int(allowed) / 2_000_000
