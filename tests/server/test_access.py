"""Who gets in, and on which address the gateway dares to listen."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import main
from tests.server.faulty_upstream import FaultyUpstream, stream, whole
from tests.server.gateway_process import REPOSITORY, STOP_SECONDS, TOKEN, Gateway, turn

ECHO = "providers: {echo: {}}\nmodels: {sonnet: echo/echo}\n"

ADMITTED = {
    "x-api-key": {"x-api-key": TOKEN},
    "Bearer": {"authorization": f"Bearer {TOKEN}"},
    "bearer": {"Authorization": f"bearer {TOKEN}"},
    "key right, Bearer wrong": {"x-api-key": TOKEN, "authorization": "Bearer sk-ant-somebody-elses"},
    "key wrong, Bearer right": {"x-api-key": "sk-ant-somebody-elses", "authorization": f"Bearer {TOKEN}"},
}
REFUSED = {
    "nothing": {},
    "empty key": {"x-api-key": ""},
    "empty Bearer": {"authorization": "Bearer "},
    "wrong": {"x-api-key": "wrong"},
    "wrong Bearer": {"authorization": "Bearer wrong"},
    "shorter": {"x-api-key": TOKEN[:-1]},
    "longer": {"x-api-key": TOKEN + "x"},
    "other case": {"x-api-key": TOKEN.upper()},
    "no scheme": {"authorization": TOKEN},
    "Basic": {"authorization": f"Basic {TOKEN}"},
    "not ASCII": {"x-api-key": "töken"},
    "surrogate": {"x-api-key": b"\xff\xfe".decode("utf-8", "surrogateescape")},
}
GUARDED = [
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages?x-api-key=" + TOKEN),
    ("POST", "/v1/messages/count_tokens"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/sonnet"),
]


@pytest.mark.parametrize("headers", ADMITTED.values(), ids=ADMITTED)
async def test_the_token_opens(gateway: Gateway, headers: dict[str, str]) -> None:
    for method, path in GUARDED:
        assert (await gateway.send(method, path, turn("sonnet") if method == "POST" else None, headers)).status == 200


@pytest.mark.parametrize("headers", REFUSED.values(), ids=REFUSED)
async def test_anything_else_does_not(gateway: Gateway, upstream: FaultyUpstream, headers: dict[str, str]) -> None:
    script = upstream.script(stream(*whole("chat", "Hi")))
    for method, path in GUARDED:
        answer = await gateway.send(method, path, turn(f"lab/{script.model}") if method == "POST" else None, headers)
        message = answer.error(401, "authentication_error")
        assert answer.headers["x-should-retry"] == "false"
        assert "ANTHROPIC_AUTH_TOKEN" in message
        assert TOKEN not in message
    assert script.visits == []


async def test_the_token_is_asked_for_before_the_body_is_read(gateway: Gateway) -> None:
    (await gateway.send("POST", "/v1/messages", b"{", {})).error(401, "authentication_error")


PATH_TRICKS = [
    "/v1/../v1/messages", "/healthz/../v1/models", "/./v1/models", "/v1/models/", "/v1//models", "/%76%31/models",
]  # fmt: skip


@pytest.mark.parametrize("path", PATH_TRICKS)
async def test_no_spelling_of_a_path_goes_past_the_token(gateway: Gateway, path: str) -> None:
    headers = {"x-original-url": "/healthz", "x-rewrite-url": "/healthz", "x-forwarded-for": "127.0.0.1"}
    for method in ("GET", "POST"):
        answer = await gateway.send(method, path, turn("sonnet") if method == "POST" else None, headers)
        assert answer.status in (401, 404, 405)
        answer.error()


async def test_other_sites_get_no_permission(gateway: Gateway) -> None:
    headers = {**gateway.headers(), "origin": "https://evil.example", "access-control-request-method": "POST"}
    for method in ("OPTIONS", "POST"):
        answer = await gateway.send(method, "/v1/messages", turn("sonnet"), headers)
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


# -- starting ----------------------------------------------------------------------------------------------


def written(folder: Path, config: str) -> str:
    file = folder / "providers.yaml"
    file.write_text(config)
    file.chmod(0o600)
    return str(file)


def serve(file: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A gateway that is expected to end by itself."""
    command = [sys.executable, "-m", "gateway", "serve", "--config", file, *options]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=STOP_SECONDS, stdin=subprocess.DEVNULL
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "localhost.example"])
def test_no_address_but_loopback_without_a_token(tmp_path: Path, host: str) -> None:
    for config, options in (
        (ECHO, ("--host", host)),
        (f'server: {{host: "{host}"}}\n{ECHO}', ()),
        (f'server: {{host: "{host}", token: ""}}\n{ECHO}', ()),
    ):
        ended = CliRunner().invoke(main, ["serve", "--config", written(tmp_path, config), "--port", "0", *options])
        assert ended.exit_code == 2
        assert ended.stdout == ""
        assert "server.token" in ended.stderr.splitlines()[-1]
        assert "Traceback" not in ended.stderr


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = serve(written(tmp_path, ECHO), "--port", str(taken.getsockname()[1]))
    assert ended.returncode not in (0, 2)
    assert len(ended.stderr.splitlines()) == 1
    assert "--port" in ended.stderr
    assert ended.stdout == ""


def test_an_address_that_is_not_ours_is_one_line(tmp_path: Path) -> None:
    file = written(tmp_path, f'server: {{token: "{TOKEN}"}}\n{ECHO}')
    ended = serve(file, "--host", "192.0.2.1", "--port", "0")
    assert ended.returncode not in (0, 2)
    assert len(ended.stderr.splitlines()) == 1
    assert TOKEN not in ended.stderr


def test_mistakes_in_the_file_end_the_start(tmp_path: Path) -> None:
    file = written(tmp_path, "providers: {lab: {api: nonsense}}\nmodels: {a: nobody/x}\n")
    ended = CliRunner().invoke(main, ["serve", "--config", file, "--port", "0"])
    assert ended.exit_code == 2
    assert len(ended.stderr.splitlines()) >= 2
    assert all("providers.yaml:" in line for line in ended.stderr.splitlines())
