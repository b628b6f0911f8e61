"""``gateway explain``: the upstream request for a body, every change to it, and no key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from tests.cli.gateway_command import ROOT, run, written

CAPTURES = sorted((ROOT / "tests" / "captures").glob("*.json"))
KEYS = {
    "LAB_KEY": "sk-lab-9f86d081884c7d65",
    "ANT_KEY": "sk-ant-2c624232cdd22177",
    "GATE_KEY": "gate-5feceb66ffc86f38",
    "ODD_KEY": 'odd"\\key-6b86b273ff34',
    "BODY_KEY": "body-4e07408562bedb8b",
    "TOKEN": "token-ef2d127de37b942b",
}
FILE = """\
server: {token: "${TOKEN}"}
providers:
  lab: {api: openai-chat, base_url: "http://127.0.0.1:9/v1", api_key: "${LAB_KEY}", headers: {Api-Key: "${GATE_KEY}"}}
  ant: {api: anthropic, base_url: "http://127.0.0.1:9", api_key: "${ANT_KEY}"}
  odd: {api: openai-chat, base_url: "http://127.0.0.1:9/v1", api_key: "${ODD_KEY}"}
  unset: {api: openai-chat, base_url: "http://127.0.0.1:9/v1", api_key: "${NO_SUCH_KEY}"}
  echo: {}
models:
  sonnet: {use: lab/up, options: {extra: "${BODY_KEY}"}}
  opus: ant/up
  haiku: [unset/up, lab/up]
  odd: odd/up
  echo: echo/x
"""
SMALL: dict[str, Any] = {
    "model": "sonnet",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "hi"}],
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GATEWAY_CONFIG", raising=False)
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    written(tmp_path, FILE)
    return tmp_path


def explain(data: Any, *options: str) -> Result:
    """The command, fed on standard input. Whatever happens, no key is seen and no traceback."""
    text = data if isinstance(data, bytes | str) else json.dumps(data)
    ended = CliRunner().invoke(main, ["explain", "-", *options], input=text)
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exc_info
    for key in KEYS.values():
        assert key not in ended.output
        assert json.dumps(key)[1:-1] not in ended.output
    return ended


def explained(data: Any) -> dict[str, Any]:
    ended = explain(data, "--json")
    assert ended.exit_code == 0, ended.output
    assert ended.stderr == ""
    shown: dict[str, Any] = json.loads(ended.stdout)
    return shown


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
@pytest.mark.parametrize("model", ["sonnet", "opus"])
def test_what_claude_code_sent(path: Path, model: str) -> None:
    taken = json.loads(path.read_text())
    if not taken["body"] or "max_tokens" not in taken["body"]:
        assert explain(taken).exit_code == 1
        return
    taken["body"]["model"] = model
    shown = explained(taken)
    assert shown["asked"] == model
    assert shown["body"]["model"] == "up"
    assert shown["estimated_input_tokens"] > 0
    assert all(change["action"] and change["path"] and change["reason"] for change in shown["changes"])
    if model == "sonnet":
        changed = {change["path"].split(".")[0] for change in shown["changes"]}
        assert ("metadata" in changed) == ("metadata" in taken["body"])


def test_a_plain_body_as_text() -> None:
    ended = explain({**SMALL, "top_k": 5})
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("sonnet → lab/up, about ")
    assert "POST http://127.0.0.1:9/v1/chat/completions" in lines
    assert "authorization: Bearer [key]" in ended.stdout or "authorization: [key]" in ended.stdout
    assert any(line.split()[:2] == ["dropped", "top_k:"] for line in lines)
    count = next(line for line in lines if line.endswith(" changes:") or line.endswith(" change:"))
    assert int(count.split()[0]) == len(lines) - lines.index(count) - 1


def test_text_and_json_say_the_same() -> None:
    shown = explained({**SMALL, "top_k": 5, "thinking": {"type": "adaptive"}})
    text = explain({**SMALL, "top_k": 5, "thinking": {"type": "adaptive"}}).stdout
    assert shown["url"] in text
    assert json.dumps(shown["body"]["messages"][0]["content"]) in text
    for change in shown["changes"]:
        assert f"{change['path']}: {change['reason']}" in text


def test_an_anthropic_upstream() -> None:
    headers = {"Anthropic-Beta": "b1,b2", "X-Api-Key": "the-clients-own", "Cookie": "the-clients-own"}
    shown = explained({"headers": headers, "body": {**SMALL, "model": "opus", "top_k": 5}})
    assert shown["url"].startswith("http://127.0.0.1:9/v1/messages")
    assert shown["headers"]["anthropic-beta"] == "b1,b2"
    assert shown["headers"]["anthropic-version"]
    assert "the-clients-own" not in json.dumps(shown)
    assert shown["body"] == {**SMALL, "model": "up", "top_k": 5, "stream": True}


def test_a_provider_without_a_key_is_explained_all_the_same() -> None:
    shown = explained({**SMALL, "model": "haiku"})
    assert (shown["target"], shown["ready"], shown["missing_key"]) == ("unset/up", False, "NO_SUCH_KEY")
    assert "not ready: set NO_SUCH_KEY" in explain({**SMALL, "model": "haiku"}).stdout


def test_the_embedded_echo_sends_nothing() -> None:
    shown = explained({**SMALL, "model": "echo"})
    assert (shown["url"], shown["headers"], shown["body"]) == ("echo:", {}, None)
    assert explain({**SMALL, "model": "echo"}).exit_code == 0


def test_no_key_in_any_form() -> None:
    for model in ("sonnet", "opus", "odd", "haiku"):
        for options in ((), ("--json",)):
            ended = explain({**SMALL, "model": model, "messages": [{"role": "user", "content": "a" * 50}]}, *options)
            assert ended.exit_code == 0
            assert '"messages"' in ended.stdout


def test_a_file_and_a_file_that_is_not_there(folder: Path) -> None:
    (folder / "request.json").write_text(json.dumps(SMALL))
    ended = CliRunner().invoke(main, ["explain", "request.json"])
    assert ended.exit_code == 0
    ended = CliRunner().invoke(main, ["explain", "gone.json"])
    assert ended.exit_code == 2
    assert "gone.json" in ended.stderr


def test_as_a_process_with_an_empty_pipe(folder: Path) -> None:
    ended = run("explain", "-", cwd=folder, env=KEYS)
    assert ended.status == 1
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1
    assert "JSON" in ended.err


# body -> what the one line on stderr says
WRONG: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "not valid JSON"),
    "no UTF-8": (b"\xff\xfe{}", "not valid JSON"),
    "nothing": ("", "not valid JSON"),
    "depth": ("[" * 5000, "not valid JSON"),
    "a list": ([SMALL], "body: "),
    "no model": ({**SMALL, "model": None}, "model: Field required"),
    "a bad field": ({**SMALL, "max_tokens": "9"}, "max_tokens: Input should be an integer"),
    "a bad block": (
        {**SMALL, "messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
    ),
    "what no upstream can take": ({**SMALL, "mcp_servers": [{"type": "url", "url": "https://h"}]}, "mcp_servers"),
    "an unknown model": ({**SMALL, "model": "gpt-9"}, "404 not_found_error: model: gpt-9"),
    "headers in a list": ({"headers": ["a"], "body": SMALL}, "headers"),
    "headers as text": ({"headers": "a: b", "body": SMALL}, "headers"),
}


@pytest.mark.parametrize(("data", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_line(data: Any, said: str) -> None:
    ended = explain(data, "--json")
    assert ended.exit_code == 1
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert said in ended.stderr


@pytest.mark.parametrize("headers", [{}, None, *({"anthropic-beta": odd} for odd in (None, 7, ["a"]))])
def test_odd_headers_are_no_crash(headers: Any) -> None:
    assert explain({"headers": headers, "body": {**SMALL, "model": "opus"}}).exit_code in (0, 1)


def test_an_unknown_model_lists_the_known_ones() -> None:
    said = explain({**SMALL, "model": "gpt-9"}).stderr
    for name in ("sonnet", "opus", "haiku", "odd", "echo"):
        assert name in said
