"""The sockets that clients connect to: bound here, or handed over by systemd.

Rules:
* A taken port is an error, also where the socket will be shared: only ``reuse_port`` joins another gateway.
* Several workers have a socket each on the same port (SO_REUSEPORT), so that Linux spreads connections evenly.
  With one socket for all of them, whoever wakes first takes most: 40 busy connections over 4 workers came to
  28, 5, 4, 3; with a socket each to 12, 12, 9, 7. Elsewhere SO_REUSEPORT does not spread, so they share one.
* A socket that closes takes along the connections that wait in its queue. So before a gateway leaves a
  shared port, Linux is told to give new connections to the others (``steer_away``).
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
from array import array
from collections.abc import MutableMapping, Sequence

BACKLOG = 1024
SPREADS = sys.platform == "linux"
"""Whether SO_REUSEPORT gives each socket its share."""

_Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]

_FIRST_FD = 3
"""sd_listen_fds(3): SD_LISTEN_FDS_START."""
_SO_ATTACH_REUSEPORT_CBPF = 51
_SO_DETACH_REUSEPORT_BPF = 68
# linux/filter.h: a = random; a %= k; a += k; return a
_LOAD_RANDOM = (0x20, 0, 0, 0xFFFFF000 + 56)
_MODULO, _ADD, _RETURN = 0x94, 0x04, 0x16


def bind(host: str, port: int, *, reuse_port: bool = False, count: int = 1) -> list[socket.socket]:
    """``count`` sockets on one address (one where it does not help), bound, not yet listening; port 0: any free one.

    Raises OSError when the address is taken or not ours, UnicodeError for a host that is none.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    if not SPREADS:
        count = 1
    if count == 1 or not reuse_port:
        first = _bound(family, address, reuse_port)
        if count == 1:
            return [first]
        # Nobody else is there; a socket that shares can be bound only when this one is gone.
        address = first.getsockname()
        first.close()
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            sockets.append(_bound(family, address, True))
            address = sockets[0].getsockname()
    except OSError:
        close(sockets)
        raise
    return sockets


def inherited(env: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets that systemd passes on (sd_listen_fds(3)); none where it did not start us.

    Takes the variables out of ``env``: they are not for our children. Raises OSError for what is no TCP socket.
    """
    pid, count = env.pop("LISTEN_PID", ""), env.pop("LISTEN_FDS", "")
    env.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isascii() or not count.isdigit():
        return []
    sockets = []
    for number in range(_FIRST_FD, _FIRST_FD + int(count)):
        os.set_inheritable(number, False)
        sockets.append(socket.socket(fileno=number))
        if sockets[-1].family not in (socket.AF_INET, socket.AF_INET6) or sockets[-1].type != socket.SOCK_STREAM:
            raise OSError(f"descriptor {number}, handed over by systemd, is no TCP socket")
    return sockets


def close(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()


def connection_waits(sockets: Sequence[socket.socket]) -> bool:
    """Whether a connection is in the queue of one of them."""
    poll = select.poll()
    for each in sockets:
        poll.register(each, select.POLLIN)
    return bool(poll.poll(0))


def steer_away(listening: socket.socket, count: int = 1) -> None:
    """New connections go to the sockets that joined the port after the ``count`` of this gateway.

    Where none did, or the system cannot do it, everything stays as it was. What was on its way stays with us.
    """
    program = (_LOAD_RANDOM, (_MODULO, 0, 0, count), (_ADD, 0, 0, count), (_RETURN, 0, 0, 0))
    code = array("B", b"".join(struct.pack("HBBI", *step) for step in program))
    _tell_port(listening, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", len(program), code.buffer_info()[0]))


def share_again(listening: socket.socket) -> None:
    """Undoes the ``steer_away`` of a gateway that left; call it once listening."""
    _tell_port(listening, _SO_DETACH_REUSEPORT_BPF, struct.pack("i", 0))


def _tell_port(listening: socket.socket, option: int, value: bytes) -> None:
    if not SPREADS:
        return
    try:
        listening.setsockopt(socket.SOL_SOCKET, option, value)
    except OSError:
        return


def _bound(family: int, address: _Address, reuse: bool) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(address)
    except OSError:
        listening.close()
        raise
    return listening
