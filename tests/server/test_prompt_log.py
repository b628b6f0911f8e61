"""``--log-prompts``: the words of those who asked for it, and of nobody else."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from gateway.access import key_text
from tests.server.gateway_process import Gateway, until
from tests.server.service import ECHO, service

KEYS = {name: key_text.make(bytes([number]) * 32) for number, name in enumerate(("anna", "bob", "late"))}
UNTIL = {"anna": "log_prompts_until: 2999-01-01", "bob": "", "late": "log_prompts_until: 2020-01-01"}


def key_file(folder: Path) -> None:
    lines = [
        f'  {name}: {{sha256: "{key_text.digest(key).hex()}", {UNTIL[name]}}}'.replace(", }", "}")
        for name, key in KEYS.items()
    ]
    file = folder / "keys.yaml"
    file.write_text("keys:\n" + "\n".join(lines) + "\n")
    file.chmod(0o600)


async def ask(gateway: Gateway, name: str, words: str, *, stream: bool) -> None:
    body = {"model": "sonnet", "max_tokens": 50, "stream": stream, "messages": [{"role": "user", "content": words}]}
    answer = await gateway.send("POST", "/v1/messages", body, {"x-api-key": KEYS[name]})
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("stream", [True, False])
async def test_only_the_words_of_who_asked_are_kept(tmp_path: Path, stream: bool) -> None:
    key_file(tmp_path)
    folder = tmp_path / "words"
    with service(tmp_path, "--log-prompts", str(folder), config=ECHO) as gateway:
        assert "warning: --log-prompts keeps whole requests and answers" in gateway.log()
        for name in KEYS:
            await ask(gateway, name, f"the words of {name}", stream=stream)
        file = folder / "anna.jsonl"

        async def written() -> bool:
            return file.exists() and file.read_bytes().endswith(b"\n")

        await until(written)
        (line,) = map(json.loads, file.read_text().splitlines())
        assert line["key"] == "anna"
        assert line["request"]["messages"][0]["content"] == "the words of anna"
        assert "anna" in line["answer"], "in pieces"
        assert line["outcome"] == "ok"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert [each.name for each in folder.iterdir()] == ["anna.jsonl"]
        assert "the words of" not in gateway.log()


async def test_nothing_is_kept_where_the_operator_does_not_want_it(tmp_path: Path) -> None:
    key_file(tmp_path)
    with service(tmp_path, config=ECHO) as gateway:
        await ask(gateway, "anna", "the words of anna", stream=False)
        assert "words" not in gateway.log()
    assert not files_with(tmp_path, b"the words")


def files_with(folder: Path, words: bytes) -> list[str]:
    return [file.name for file in folder.iterdir() if file.is_file() and words in file.read_bytes()]


async def test_a_folder_that_cannot_be_written_stops_no_request(tmp_path: Path) -> None:
    key_file(tmp_path)
    (tmp_path / "file").write_text("")
    with service(tmp_path, "--log-prompts", str(tmp_path / "file" / "words"), config=ECHO) as gateway:
        for _ in range(2):
            await ask(gateway, "anna", "the words of anna", stream=True)

        async def said() -> bool:
            return "cannot be written" in gateway.log()

        await until(said)
        await ask(gateway, "anna", "the words of anna", stream=True)
        assert gateway.log().count("cannot be written") == 1
