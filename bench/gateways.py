"""The contenders: how each is started between the load generator and the mock upstream.

Rules:
* Each runs on one core, with a configuration of its own in a temporary folder, on a free port, and reaches
  nothing but the mock.
* Ours runs with everything on that a user gets: the client's key is checked, each request is logged to a file.
* What is not installed is a row that says so.
"""

from __future__ import annotations

import http.client
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from bench.processes import free_port, running
from bench.streams import MEASURED

ROOT = Path(__file__).resolve().parents[1]
KEY = "sk-bench-0123456789"
"""What clients send, and what each gateway that checks keys is told to expect."""
START_LIMIT = 90.0
"""Seconds in which a contender must listen."""
ANSWER_LIMIT = 10.0
"""Seconds from then on in which it must answer well."""


class Unavailable(Exception):
    """A contender cannot run here; the message says why."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a contender is to be built."""

    folder: Path
    port: int
    upstream: int
    """The mock's port."""
    spare: int = 0
    """A second free port."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How it is started, once its files are written."""

    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    model_prefix: str = ""
    """Stands before the name of the stream in what the client asks for."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """What its clients send besides, or instead."""


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    what: str
    launch: Callable[[Site], Launch] | None
    """Writes its files; None: nothing stands between load and mock. Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A contender that answers."""

    contender: Contender
    port: int
    pid: int | None
    model_prefix: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.contender.name


def on_path(program: str) -> str:
    """Raises Unavailable."""
    found = shutil.which(program)
    if found is None:
        raise Unavailable(f"not installed: {program} is not on PATH")
    return found


@contextmanager
def started(contender: Contender, folder: Path, upstream: int, core: int) -> Iterator[Gateway]:
    """The contender, pinned to ``core``, once it has answered a request. Raises Unavailable."""
    if contender.launch is None:
        yield Gateway(contender, upstream, None)
        return
    own = folder / f"{contender.name}-{free_port()}"
    own.mkdir()
    site = Site(own, free_port(), upstream, free_port())
    launch = contender.launch(site)
    with running(launch.command, own, "output.log", {core}, launch.environment) as process:
        until = time.monotonic() + START_LIMIT
        while answer := first_answer(site.port, launch):
            if answer[0].isdigit():
                until = min(until, time.monotonic() + ANSWER_LIMIT)
            if process.poll() is not None or time.monotonic() > until:
                said = (own / "output.log").read_text(errors="replace").strip()[-600:]
                raise Unavailable(f"it does not start ({answer}): {said}")
            time.sleep(0.1)
        yield Gateway(contender, site.port, process.pid, launch.model_prefix, launch.headers)


def first_answer(port: int, launch: Launch) -> str:
    """Asks for one stream; "" when a 200 came, else its status and what it says, or why nothing came."""
    message = {"role": "user", "content": "hello"}
    body = {"model": f"{launch.model_prefix}short", "max_tokens": 9, "stream": True, "messages": [message]}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/v1/messages", json.dumps(body), {**client_headers(), **launch.headers})
        response = connection.getresponse()
        said = response.read()
        return "" if response.status == 200 else f"{response.status} {said[:200].decode(errors='replace')}"
    except OSError as error:
        return error.strerror or type(error).__name__
    finally:
        connection.close()


def client_headers() -> dict[str, str]:
    """What Claude Code sends (tests/captures), with the bench's key."""
    capture = json.loads((ROOT / "tests" / "captures" / "08-second-tool-result-turn.json").read_bytes())
    left_out = ("authorization", "accept-encoding")
    return {
        **{name: value for name, value in capture["headers"].items() if name not in left_out},
        "authorization": f"Bearer {KEY}",
    }


# -- ours ------------------------------------------------------------------------------------------------


def _ours(api: str) -> Callable[[Site], Launch]:
    return lambda site: ours(site, api, {"bench": KEY})


def ours(site: Site, api: str, keys: Mapping[str, str], *options: str) -> Launch:
    """The gateway as a team runs it: a key for each client, limits that nobody reaches, ledger, prices, metrics.

    ``keys``: name -> key.
    """
    provider = {"api": api, "base_url": f"http://127.0.0.1:{site.upstream}/v1", "api_key": KEY}
    config = {
        "server": {"host": "127.0.0.1", "port": site.port, "admin": {"port": site.spare}},
        "providers": {"mock": {**provider, "profile": {"price": {"input": 1, "output": 3}}}},
        "models": {**{name: f"mock/{name}" for name in MEASURED}, "*": "mock"},
        "groups": {"team": {"rpm": 10_000_000, "tpm": "1000M", "budget": "1000000usd/month"}},
    }
    (site.folder / "providers.yaml").write_text(json.dumps(config))
    (site.folder / "keys.yaml").write_text(keys_yaml(keys))
    (site.folder / "keys.yaml").chmod(0o600)
    command = [sys.executable, "-m", "gateway", "serve", "--config", "providers.yaml", *options]
    return Launch(command, {"PYTHONPATH": str(ROOT)})


def keys_yaml(keys: Mapping[str, str]) -> str:
    """As ``gateway keys add`` writes it: everybody has limits, and nobody reaches them."""
    limits = "group: team, rpm: 1000000, tpm: 1000M, concurrency: 100000, budget: 1000000usd/month"
    entries = (f"  {name}: {{sha256: {sha256(key.encode()).hexdigest()}, {limits}}}\n" for name, key in keys.items())
    return f"keys:\n{''.join(entries)}"


# -- nginx -----------------------------------------------------------------------------------------------

_NGINX = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 8192; }}
http {{
  access_log access.log;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  client_max_body_size 32m;
  client_body_buffer_size 1m;
  keepalive_requests 1000000;
  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://mock;
      proxy_http_version 1.1;
      proxy_set_header connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


def _nginx(site: Site) -> Launch:
    program = on_path("nginx")
    (site.folder / "nginx.conf").write_text(_NGINX.format(port=site.port, upstream=site.upstream))
    return Launch([program, "-p", str(site.folder), "-c", "nginx.conf", "-e", "error.log"])


OURS = (
    Contender("direct", "the load generator straight at the mock", None),
    Contender("nginx", "C, hands the bytes through", _nginx),
    Contender("translated", "this gateway to a chat completions upstream", _ours("openai-chat")),
    Contender("passthrough", "this gateway to an Anthropic upstream", _ours("anthropic")),
)
