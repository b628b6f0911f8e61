"""Starts Anthropic's `claude gateway` with what it does not start without: a PostgreSQL server, a sign-in.

    python -m bench.claude_gateway CONFIG POSTGRES_PORT

The mock upstream plays the identity provider: it is asked for its addresses at the start and never again.
A client's session token is signed here with the secret of the configuration, as the gateway does after a sign-in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

SECRET = "bench-secret-0123456789-0123456789"
_ADMIN = "postgres"


def session_token() -> str:
    """What a client sends as Bearer; good for a day."""
    header = {"alg": "HS256", "typ": "JWT", "kid": hashlib.sha256(SECRET.encode()).digest()[:8].hex()}
    now = int(time.time())
    claims = {"sub": "bench", "email": "bench@example.com", "aud": "claude-gateway", "iat": now, "exp": now + 86400}
    signed = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
    return f"{signed}.{_base64(hmac.digest(SECRET.encode(), signed.encode(), 'sha256'))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def config(port: int, postgres: int, upstream: int, models: tuple[str, ...]) -> dict[str, object]:
    """Of one Anthropic upstream with these models."""
    mock = f"http://127.0.0.1:{upstream}"
    return {
        "listen": {"host": "127.0.0.1", "port": port},
        "upstreams": [{"name": "mock", "provider": "anthropic", "base_url": mock, "auth": {"api_key": "k"}}],
        "auto_include_builtin_models": False,
        "models": [{"id": name, "upstream_model": {"mock": name}} for name in models],
        "oidc": {"issuer": mock, "client_id": "bench", "client_secret": "bench"},
        "session": {"jwt_secret": SECRET},
        "store": {"postgres_url": f"postgresql://{_ADMIN}@127.0.0.1:{postgres}/postgres"},
    }


def postgres_program(name: str) -> str:
    """Debian keeps them off PATH. Raises FileNotFoundError."""
    found = shutil.which(name) or next(map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None)
    if found is None:
        raise FileNotFoundError(f"not installed: {name} of PostgreSQL")
    return found


def main() -> None:
    path, port = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-bench-postgres-"))
        data, user = f"{folder}/data", None
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            shutil.chown(folder, user=_ADMIN)
            user = _ADMIN
        options = ["-D", data, "-U", _ADMIN, "--auth", "trust", "--no-sync"]
        subprocess.run([postgres_program("initdb"), *options], check=True, cwd=folder, user=user)
        command = [postgres_program("postgres"), "-D", data, "-p", port, "-h", "127.0.0.1", "-k", folder]
        database = stack.enter_context(subprocess.Popen(command, cwd=folder, user=user))
        stack.callback(database.send_signal, signal.SIGINT)  # ends without waiting for its clients
        ready = [postgres_program("pg_isready"), "-h", "127.0.0.1", "-p", port, "-U", _ADMIN]
        while subprocess.run(ready).returncode:
            time.sleep(0.1)
        settings = {"CLAUDE_GATEWAY_ALLOW_LOOPBACK": "1", "CLAUDE_GATEWAY_LOG_LEVEL": "warn"}
        gateway = stack.enter_context(
            subprocess.Popen(["claude", "gateway", "--config", path], env={**os.environ, **settings})
        )
        stack.callback(gateway.terminate)
        gateway.wait()


if __name__ == "__main__":
    main()
