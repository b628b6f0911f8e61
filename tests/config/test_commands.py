"""``gateway check``, ``routes`` and ``env``: what they print, and with which exit status."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from gateway.cli.check import check
from gateway.cli.env import env, server_url
from gateway.cli.explain import explain
from gateway.cli.routes import routes

FILE = """
server: {token: "secret-token"}
providers: {xai: {}, anthropic: {api_key: secret-key}, echo: {}}
models: {sonnet: [xai/grok-4.7, echo/x], "claude-*": anthropic}
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GATEWAY_CONFIG", "XAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "providers.yaml"
    path.write_text(FILE)
    path.chmod(0o600)
    return path


def run(command: click.Command, *args: str) -> Result:
    result = CliRunner().invoke(command, args)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "secret-key" not in result.output
    return result


def test_check_accepts_and_warns(path: Path) -> None:
    for args in ((), (str(path),)):
        result = run(check, *args)
        assert result.exit_code == 0
        assert result.stdout.splitlines()[0] == "warning: providers.xai is disabled: XAI_API_KEY is not set"
        assert result.stdout.splitlines()[1].endswith("providers.yaml: ok, 2 model names, 3 providers")


def test_check_reports_every_mistake(path: Path) -> None:
    path.write_text("server: {prot: 1}\nproviders: {echo: {}}\nmodels: {m: ehco/x}\n")
    result = run(check)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "providers.yaml:1:10: unknown key 'prot' in server (did you mean 'port'?)",
        "providers.yaml:3:13: models.m: 'ehco' is not under 'providers' (did you mean 'echo'?)",
    ]


@pytest.mark.parametrize("command", [check, routes, env])
def test_a_missing_file(command: click.Command, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_CONFIG", "elsewhere.yaml")
    result = run(command)
    assert result.exit_code == 2
    assert result.stderr.startswith("elsewhere.yaml: there is no such file (make one: ")


def test_routes_shows_targets_and_their_state(path: Path) -> None:
    assert run(routes).stdout.splitlines() == [
        "sonnet    → xai/grok-4.7  no key: set XAI_API_KEY",
        "          ↳ echo/x        ready",
        "claude-*  → anthropic/*   ready",
    ]


def test_routes_shows_who_takes_what_is_too_long(path: Path) -> None:
    models = "{m: {use: [echo/a, xai/b], on_overflow: [echo/c, xai/d]}}"
    path.write_text(f"providers: {{xai: {{}}, echo: {{}}}}\nmodels: {models}\n")
    assert run(routes).stdout.splitlines() == [
        "m  → echo/a  ready",
        "   ↳ xai/b   no key: set XAI_API_KEY",
        "   ↳ echo/c  ready (on overflow)",
        "   ↳ xai/d   no key: set XAI_API_KEY (on overflow)",
    ]
    (row,) = json.loads(run(routes, "--json").stdout)
    assert [target["model"] for target in row["targets"]] == ["a", "b"]
    assert [(target["model"], target["ready"]) for target in row["on_overflow"]] == [("c", True), ("d", False)]


def test_env_counts_who_takes_what_is_too_long(path: Path) -> None:
    path.write_text("providers: {anthropic: {}, echo: {}}\nmodels: {m: {use: anthropic/a, on_overflow: echo/b}}\n")
    assert "CLAUDE_CODE_AUTO_MODE_SERVER" in run(env).stdout


# -- an environment file ---------------------------------------------------------------------------------


@pytest.fixture
def request_file(path: Path) -> str:
    file = path.with_name("request.json")
    file.write_text(json.dumps({"model": "sonnet", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}))
    return str(file)


@pytest.fixture
def env_file(path: Path) -> Path:
    file = path.with_name(".env")
    file.write_text("XAI_API_KEY=secret-key-of-the-file\nTOKEN=secret-token-of-the-file\n")
    file.chmod(0o600)
    return file


@pytest.mark.parametrize("by", ["option", "variable"])
def test_variables_may_stand_in_an_environment_file(
    path: Path, env_file: Path, request_file: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--env-file", str(env_file)] if by == "option" else []
    if by == "variable":
        monkeypatch.setenv("GATEWAY_ENV_FILE", str(env_file))
    monkeypatch.setenv("TOKEN", "of-the-process")
    path.write_text(FILE.replace('"secret-token"', '"${TOKEN}"'))
    assert run(check, *options).stdout.splitlines() == ["providers.yaml: ok, 2 model names, 3 providers"]
    assert run(routes, *options).stdout.splitlines()[0].split()[-1] == "ready"
    assert "secret-token-of-the-file" in run(env, "--show-token", *options).stdout
    assert "not ready" not in run(explain, request_file, *options).stdout


def test_check_warns_of_an_environment_file_that_others_can_read(path: Path, env_file: Path) -> None:
    env_file.chmod(0o644)
    assert run(check, "--env-file", str(env_file)).stdout.startswith(f"warning: other users can read {env_file}")


@pytest.mark.parametrize("command", [check, routes, env, explain])
@pytest.mark.parametrize(("text", "mistake"), [(None, "there is no such file"), ("XAI_API_KEY\n", "'=' is missing")])
def test_a_bad_environment_file(
    command: click.Command, text: str | None, mistake: str, path: Path, request_file: str, tmp_path: Path
) -> None:
    file = tmp_path / "bad.env"
    if text is not None:
        file.write_text(text)
    result = run(command, *([request_file] if command is explain else []), "--env-file", str(file))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"{file}:")
    assert mistake in result.stderr


def test_routes_as_json(path: Path) -> None:
    rows = json.loads(run(routes, "--json").stdout)
    assert [row["name"] for row in rows] == ["sonnet", "claude-*"]
    assert rows[0]["targets"][0] == {
        "provider": "xai",
        "model": "grok-4.7",
        "api": "openai-responses",
        "base_url": "https://api.x.ai/v1",
        "ready": False,
        "missing_key": "XAI_API_KEY",
    }


def test_env_for_sh(path: Path) -> None:
    result = run(env)
    assert result.stdout.splitlines() == [
        "export ANTHROPIC_BASE_URL=http://127.0.0.1:4002",
        "export ANTHROPIC_AUTH_TOKEN=PUT-THE-TOKEN-HERE",
        "export CLAUDE_CODE_AUTO_MODE_SERVER=0",
    ]
    assert "--show-token" in result.stderr


def test_env_shows_the_token_only_on_request(path: Path) -> None:
    for shell in ("sh", "fish", "json"):
        assert "secret-token" not in run(env, "--shell", shell).output
        shown = run(env, "--shell", shell, "--show-token")
        assert "secret-token" in shown.stdout
        assert shown.stderr == ""


def test_env_for_fish_and_json(path: Path) -> None:
    path.write_text(FILE.replace('"secret-token"', '"it\'s\\\\"'))
    fish = run(env, "--shell", "fish", "--show-token", "--url", "https://gw.example").stdout.splitlines()
    assert fish[:2] == [
        "set -gx ANTHROPIC_BASE_URL 'https://gw.example'",
        "set -gx ANTHROPIC_AUTH_TOKEN 'it\\'s\\\\'",
    ]
    settings = json.loads(run(env, "--shell", "json", "--show-token").stdout)
    assert settings["env"]["ANTHROPIC_AUTH_TOKEN"] == "it's\\"


def test_env_without_a_translated_route(path: Path) -> None:
    path.write_text("providers: {anthropic: {}}\nmodels: {default: anthropic}\n")
    assert run(env).stdout.splitlines() == [
        "export ANTHROPIC_BASE_URL=http://127.0.0.1:4002",
        "export ANTHROPIC_AUTH_TOKEN=not-needed",
    ]


def test_server_url() -> None:
    assert [server_url(host, 1) for host in ("0.0.0.0", "::", "::1", "gw.example")] == [
        "http://127.0.0.1:1",
        "http://[::1]:1",
        "http://[::1]:1",
        "http://gw.example:1",
    ]
