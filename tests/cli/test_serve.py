"""``gateway serve``: what it says at the start, and what it takes to stop it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import main
from tests.cli.gateway_command import run, serving, written

ECHO = "providers: {echo: {}}\nmodels: {sonnet: echo/x}\n"
KEYED = """\
providers:
  xai: {}
  deepseek: {}
models:
  sonnet: deepseek/deepseek-v4-pro
  "grok-*": xai
"""
KEY = "sk-deepseek-0cc175b9c0f1b6a8"


@pytest.fixture
def never_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that should have refused fails, instead of serving for ever."""

    def start(*_: object, **__: object) -> None:
        raise AssertionError("it starts")

    monkeypatch.setattr("gateway.server.start.start", start)


def refused(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, list[str]]:
    """A start that fails: its status and the lines on stderr. Nothing else is said."""
    ended = CliRunner(env={"GATEWAY_CONFIG": None, **(env or {})}).invoke(main, ["serve", "--port", "0", *arguments])
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exc_info
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    return ended.exit_code, ended.stderr.splitlines()


# -- demo ------------------------------------------------------------------------------------------------


def test_the_demo_needs_nothing_and_writes_nothing(tmp_path: Path) -> None:
    """No file, no key, no home, no folder for temporary files."""
    with serving("--demo", cwd=tmp_path, env={"TMPDIR": str(tmp_path / "none")}) as gateway:
        assert gateway.out[-1].endswith("  (demo)")
        assert gateway.url.startswith("http://127.0.0.1:")
        assert gateway.ask() == "echo: say hi"
        assert gateway.ask(model="any-name-at-all") == "echo: say hi"
        gateway.wait_for("CLAUDE_CODE_AUTO_MODE_SERVER")
        assert gateway.stop() == 0
    assert "  sonnet   echo/echo  ready" in gateway.out
    assert f"export ANTHROPIC_BASE_URL={gateway.url}" in gateway.out
    assert "export ANTHROPIC_AUTH_TOKEN=not-needed" in gateway.out
    assert list(tmp_path.iterdir()) == []
    assert not [line for line in gateway.err if "Traceback" in line or "Error" in line]


def test_without_a_key_it_becomes_a_demo_and_says_what_to_set(tmp_path: Path) -> None:
    file = written(tmp_path, KEYED)
    with serving("--demo-without-keys", "--config", file, cwd=tmp_path, env={"DEEPSEEK_API_KEY": ""}) as gateway:
        assert "demo mode" in gateway.out[0]
        assert any(f"export {name}=" in gateway.out[1] for name in ("DEEPSEEK_API_KEY", "XAI_API_KEY"))
        assert gateway.out[-1].endswith("  (demo)")
        assert gateway.ask() == "echo: say hi"


def test_with_a_key_it_is_no_demo(tmp_path: Path, closed_port: int) -> None:
    text = KEYED.replace("deepseek: {}", f'deepseek: {{base_url: "http://127.0.0.1:{closed_port}", api_key: "${{K}}"}}')
    file = written(tmp_path, text)
    with serving("--demo-without-keys", "--config", file, cwd=tmp_path, env={"K": KEY}) as gateway:
        gateway.wait_for("CLAUDE_CODE_AUTO_MODE_SERVER")
        gateway.stop()
    assert not [line for line in gateway.out if "demo" in line]
    assert KEY not in "\n".join([*gateway.out, *gateway.err])


# -- the table -------------------------------------------------------------------------------------------


def test_the_table_shows_who_can_answer(tmp_path: Path, closed_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as up:
        text = f"""\
server: {{token: gate-token-1}}
providers:
  up: {{api: openai-chat, base_url: "http://127.0.0.1:{up.getsockname()[1]}/v1"}}
  down: {{api: openai-chat, base_url: "http://127.0.0.1:{closed_port}/v1"}}
  keyless: {{api: openai-chat, base_url: "http://127.0.0.1:{closed_port}/v1", api_key: "${{NO_SUCH_KEY}}"}}
models:
  sonnet: [up/a, down/bb]
  haiku: keyless/c
"""
        with serving("--config", written(tmp_path, text), cwd=tmp_path) as gateway:
            gateway.wait_for("CLAUDE_CODE_AUTO_MODE_SERVER")
            gateway.stop()
    assert gateway.out == [
        gateway.out[0],
        "",
        "  sonnet  up/a       ready",
        "          down/bb    unreachable",
        "  haiku   keyless/c  no key: set NO_SUCH_KEY",
        "",
        "For Claude Code, in another terminal:",
        "",
        f"export ANTHROPIC_BASE_URL={gateway.url}",
        "export ANTHROPIC_AUTH_TOKEN=PUT-THE-TOKEN-HERE",
        "export CLAUDE_CODE_AUTO_MODE_SERVER=0",
    ]
    assert "gate-token-1" not in "\n".join([*gateway.out, *gateway.err])
    assert [line for line in gateway.err if line.startswith("warning: ") and "NO_SUCH_KEY" in line]


# -- where it listens ------------------------------------------------------------------------------------


def test_options_override_the_file_and_a_variable_names_it(tmp_path: Path, closed_port: int) -> None:
    written(tmp_path, f"server: {{host: localhost, port: {closed_port}}}\n{ECHO}", "elsewhere.yaml")
    with serving("--host", "127.0.0.2", cwd=tmp_path, env={"GATEWAY_CONFIG": "elsewhere.yaml"}) as gateway:
        assert gateway.url.startswith("http://127.0.0.2:")
        assert not gateway.url.endswith(f":{closed_port}")
        assert gateway.ask() == "echo: say hi"


def test_the_port_of_the_file_holds_without_an_option(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("serve", "--config", written(tmp_path, f"server: {{port: {port}}}\n{ECHO}"), cwd=tmp_path)
    assert ended.status == 1
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert f"port {port} on 127.0.0.1 is taken" in line


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".invalid", "host name"])
def test_a_host_that_is_none_is_one_line(host: str, tmp_path: Path) -> None:
    file = written(tmp_path, f"server: {{token: gate-token-1}}\n{ECHO}")
    status, lines = refused("--config", file, "--host", host)
    assert status == 1
    assert len(lines) == 1
    assert host in lines[0]
    assert "gate-token-1" not in lines[0]


@pytest.mark.usefixtures("never_started")
def test_the_network_needs_a_token(tmp_path: Path) -> None:
    status, lines = refused("--config", written(tmp_path, ECHO), "--host", "0.0.0.0")
    assert status == 2
    assert "server.token" in lines[-1]
    assert refused("--demo", "--host", "0.0.0.0")[0] == 2, "a demo is no exception"


# -- a file that is wrong --------------------------------------------------------------------------------


@pytest.mark.usefixtures("never_started")
def test_a_missing_file_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for env, name in (({}, "providers.yaml"), ({"GATEWAY_CONFIG": "other.yaml"}, "other.yaml")):
        status, lines = refused(env=env)
        assert status == 2
        assert len(lines) == 1
        assert lines[0].startswith(f"{name}: there is no such file (")


def test_every_mistake_is_told_with_its_place(tmp_path: Path) -> None:
    text = "server: {prot: 1}\nproviders: {echo: {}}\nmodels:\n  sonnet: ehco/x\n  haiku: 7\n"
    ended = run("serve", "--config", written(tmp_path, text), cwd=tmp_path)
    assert ended.status == 2
    assert ended.out == ""
    lines = ended.err.splitlines()
    assert [line.partition("providers.yaml:")[2].split(":")[0] for line in lines] == ["1", "4", "5"]
    assert "'prot'" in lines[0]
    assert "did you mean 'port'?" in lines[0]
    assert "did you mean 'echo'?" in lines[1]
    assert "Traceback" not in ended.err


@pytest.mark.usefixtures("never_started")
@pytest.mark.parametrize(
    "text",
    ["", "[]", "a: b: c", "providers: {", "\t", "models: {a: b}", "\x00", "x: !!python/object/apply:os.system [ls]"],
)
def test_what_is_no_configuration_at_all(text: str, tmp_path: Path) -> None:
    status, lines = refused("--config", written(tmp_path, text))
    assert status == 2
    assert lines
    assert all("providers.yaml" in line for line in lines)


@pytest.mark.usefixtures("never_started")
@pytest.mark.parametrize("path", [".", "/dev/null", "no/such/folder/providers.yaml"])
def test_what_is_no_file(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, lines = refused("--config", path)
    assert status == 2
    assert len(lines) == 1


# -- the environment file --------------------------------------------------------------------------------


def test_an_environment_file_wins_over_the_environment(tmp_path: Path) -> None:
    file = written(tmp_path, 'server: {host: "${WHERE}"}\n' + ECHO)
    env_file = written(tmp_path, "WHERE=127.0.0.3\n", ".env")
    for arguments, env in ((["--env-file", env_file], {}), ([], {"GATEWAY_ENV_FILE": env_file})):
        with serving("--config", file, *arguments, cwd=tmp_path, env={"WHERE": "127.0.0.2", **env}) as gateway:
            assert gateway.url.startswith("http://127.0.0.3:")
            gateway.stop()
        assert gateway.err[0].startswith("20"), "no warning, but the log"


def test_an_environment_file_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    env_file = written(tmp_path, "A=1\n", ".env")
    Path(env_file).chmod(0o644)
    with serving("--config", written(tmp_path, ECHO), "--env-file", env_file, cwd=tmp_path) as gateway:
        gateway.stop()
    assert gateway.err[0] == f"warning: other users can read {env_file}: chmod 600"


@pytest.mark.usefixtures("never_started")
def test_mistakes_of_an_environment_file_stop_the_start(tmp_path: Path) -> None:
    file = written(tmp_path, ECHO)
    env_file = written(tmp_path, f"A=1\n{KEY}\nB='\n", ".env")
    status, lines = refused("--config", file, "--env-file", env_file)
    assert status == 2
    assert [line.partition(".env:")[2].split(":")[0] for line in lines] == ["2", "3"]
    assert KEY not in "\n".join(lines)
    status, lines = refused("--config", file, "--env-file", str(tmp_path / "none"))
    assert (status, lines) == (2, [f"{tmp_path / 'none'}: there is no such file"])


@pytest.mark.usefixtures("never_started")
@pytest.mark.parametrize("arguments", [("--workers", "0"), ("--drain-seconds", "901"), ("--drain-seconds", "-1")])
def test_what_is_out_of_range(arguments: tuple[str, str], tmp_path: Path) -> None:
    assert refused("--config", written(tmp_path, ECHO), *arguments)[0] == 2


# -- where it writes -------------------------------------------------------------------------------------


def test_readers_that_left_do_not_end_it(tmp_path: Path) -> None:
    """stdout and stderr are pipes whose other end is closed, as after ``gateway serve 2>&1 | head -1``."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    with serving("--demo", "--log-level", "debug", cwd=tmp_path, port=port, heard=False) as gateway:
        gateway.wait_until_it_listens()
        assert [gateway.ask() for _ in range(3)] == ["echo: say hi"] * 3
        assert gateway.stop() == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_arrows_is_no_obstacle(encoding: str, tmp_path: Path) -> None:
    env = {"PYTHONIOENCODING": encoding}
    with serving("--demo-without-keys", "--config", written(tmp_path, KEYED), cwd=tmp_path, env=env) as gateway:
        assert "export " in gateway.out[1]
        gateway.wait_for("CLAUDE_CODE_AUTO_MODE_SERVER")
    ended = run("routes", cwd=tmp_path, env=env)
    assert ended.status == 0
    assert "sonnet" in ended.out
