"""TLS to clients: a context that follows its files.

Rules:
* Modern: TLS 1.2 with forward secrecy and authenticated ciphers, or 1.3; no compression, no renegotiation.
* What the files hold is tried as a whole before it is used. A bad pair at the start ends the start; later, the one
  before stays in use, and the log says why.
* New files count for new connections; those that are open go on. Each change makes a new context, so that a dropped
  authority is forgotten, and with it the sessions that a client could resume.
* No message holds what is in a file.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Any

from gateway.config.settings import TlsSettings

log = logging.getLogger("gateway")

POLL_SECONDS = 1.0
"""How often the files are looked at."""
HANDSHAKE_SECONDS = 10.0
"""How long a client may take for it."""
CLOSE_SECONDS = 2.0
"""How long an end waits for the client's own."""

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2; those of 1.3 are all as good."""
_MAX_BYTES = 1 << 20

_State = tuple[tuple[int, int, int] | None, ...]


class TlsError(Exception):
    """Why the files cannot be used; one line, with the field and the file."""


class FollowingContext(ssl.SSLContext):
    """What a listener is given: each new connection gets the context that is in use then."""

    current: ssl.SSLContext

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return self.current.wrap_bio(*args, **kwargs)


class ServerTls:
    """The files of ``server.tls``."""

    def __init__(self, settings: TlsSettings) -> None:
        """Raises TlsError."""
        self._settings = settings
        self._paths = [Path(name) for name in (settings.certificate, settings.key, settings.client_ca) if name]
        self._seen = self._pending = self._state()
        self.context = FollowingContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.current = load(settings)

    def connection_options(self) -> dict[str, Any]:
        """Arguments for ``loop.connect_accepted_socket``."""
        return {
            "ssl": self.context,
            "ssl_handshake_timeout": HANDSHAKE_SECONDS,
            "ssl_shutdown_timeout": CLOSE_SECONDS,
        }

    def poll(self) -> TlsError | bool:
        """Looks at the files: True when others are in use now, an error when they changed for the worse."""
        state = self._state()
        # Two looks in a row must agree: a certificate and its key are two files, and one is written first.
        if state == self._seen or state != self._pending:
            self._pending = state
            return False
        self._seen = state
        try:
            self.context.current = load(self._settings)
        except TlsError as error:
            return error
        return True

    async def follow(self) -> None:
        """Polls for ever, and logs what came of it."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            outcome = await asyncio.to_thread(self.poll)
            if isinstance(outcome, TlsError):
                log.error("%s; the certificate before stays in use", outcome)
            elif outcome:
                log.info("server.tls: %s was read anew", self._settings.certificate)

    def _state(self) -> _State:
        return tuple(map(_file_state, self._paths))


def load(settings: TlsSettings) -> ssl.SSLContext:
    """A context from the files as they are now. Raises TlsError."""
    certificate = _read("certificate", settings.certificate, "CERTIFICATE")
    _read("key", settings.key, "PRIVATE KEY")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.certificate, settings.key, password=_refuse_password)
    except _EncryptedKeyError:
        raise TlsError(f"server.tls.key: {settings.key} is encrypted; give one without a passphrase") from None
    except (OSError, ValueError) as error:
        raise _unfit_pair(settings, certificate, error) from None
    if settings.client_ca is not None:
        authority = _read("client_ca", settings.client_ca, "CERTIFICATE")
        try:
            context.load_verify_locations(cadata=authority)
        except (OSError, ValueError) as error:
            raise TlsError(f"server.tls.client_ca: {settings.client_ca}: {_reason(error)}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class _EncryptedKeyError(Exception):
    """OpenSSL asked for a passphrase; without us it would ask the terminal."""


def _refuse_password() -> str:
    raise _EncryptedKeyError


def _unfit_pair(settings: TlsSettings, certificate: str, error: OSError | ValueError) -> TlsError:
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return TlsError(f"server.tls.key: {settings.key} is not the key of {settings.certificate}")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=certificate)
    except (OSError, ValueError) as bad:
        return TlsError(f"server.tls.certificate: {settings.certificate}: {_reason(bad)}")
    return TlsError(f"server.tls.key: {settings.key}: {_reason(error)}")


def _read(field: str, name: str, kind: str) -> str:
    """The text of a PEM file that has a ``kind``. Raises TlsError."""
    try:
        with Path(name).open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise TlsError(f"server.tls.{field}: {name}: {_reason(error)}") from None
    if len(data) > _MAX_BYTES or f"{kind}-----".encode() not in data:
        raise TlsError(f"server.tls.{field}: {name} holds no {kind.lower()} in PEM form")
    return data.decode("ascii", "ignore")  # comments may be in any language


def _reason(error: OSError | ValueError) -> str:
    """In words; what OpenSSL says, without the line of its source."""
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None)
    return str(reason or "cannot be used").lower().replace("_", " ")


def _file_state(path: Path) -> tuple[int, int, int] | None:
    """Follows links. None: not there."""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return None
    return state.st_mtime_ns, state.st_size, state.st_ino
