"""``gateway check --live`` as a process of its own: the table, the JSON, the file it writes, and its exit status."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import stat
from collections.abc import Awaitable, Callable
from contextlib import chdir
from pathlib import Path

import pytest
from click.testing import CliRunner
from pytest_aiohttp.plugin import AiohttpServer

from gateway.cli import main
from tests.cli.gateway_command import GATEWAY, SECONDS, Ended, environment, written
from tests.fakes.capable_upstream import KEY, CapableUpstream

FILE = """\
# The lab.
providers:
  lab:   # by hand
    api: openai-chat
    base_url: {url}
    api_key: ${{LAB_KEY}}
  flow: {{api: openai-chat, base_url: "{url}", api_key: "{key}"}}   # the same, in one line
models:
  sonnet: lab/m
  haiku: [lab/m, flow/n]
  "gpt-*": flow
"""
LIMITED = {"images": "refused", "parallel_switch": "refused"}

Place = Callable[[CapableUpstream], Awaitable[Path]]


@pytest.fixture
def place(tmp_path: Path, aiohttp_server: AiohttpServer) -> Place:
    """A folder with a providers.yaml that leads to an upstream."""

    async def make(upstream: CapableUpstream) -> Path:
        server = await aiohttp_server(upstream.app())
        written(tmp_path, FILE.format(url=server.make_url("/v1"), key=KEY))
        return tmp_path

    return make


async def check(folder: Path, *arguments: str, key: str = KEY) -> Ended:
    """``gateway check`` in a thread of this process, which starts at once."""
    options = {"env": {"LAB_KEY": key, "GATEWAY_CONFIG": None}, "catch_exceptions": False}
    with chdir(folder):
        ended = await asyncio.to_thread(CliRunner().invoke, main, ["check", *arguments], **options)
    return clean(Ended(ended.exit_code, ended.stdout, ended.stderr), key)


async def process_of(folder: Path, *arguments: str, key: str = KEY) -> Ended:
    """``gateway check`` as its users run it."""
    process = await asyncio.create_subprocess_exec(
        *GATEWAY,
        "check",
        *arguments,
        cwd=folder,
        env=environment(LAB_KEY=key),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return clean(Ended(process.returncode or 0, out.decode(), err.decode()), key)


def clean(ended: Ended, key: str = KEY) -> Ended:
    """Whatever happens, no key is seen and no traceback."""
    for text in (ended.out, ended.err):
        assert key not in text
        assert KEY not in text
        assert "Traceback" not in text
    return ended


def rows(text: str) -> dict[str, list[str]]:
    """Target -> its marks, of the table."""
    lines = text.partition("\n\n")[0].splitlines()
    heads = "auth streaming tools parallel-tools forced-choice reasoning replay images usage window"
    assert lines[0].split() == heads.replace("-", " ").split()
    return {line.split()[0]: line.split()[1:] for line in lines[1:]}


async def test_the_table(place: Place) -> None:
    ended = await process_of(await place(CapableUpstream(**LIMITED)), "--live")
    assert ended.status == 0
    assert ended.err == (
        "asking 2 models: at most 39 small requests each, which cost a few thousand tokens; Ctrl-C stops\n"
    )
    marks = ["ok", "ok", "ok", "ok", "ok", "?", "-", "no", "ok", "?"]
    assert rows(ended.out) == {"lab/m": marks, "flow/n": marks}
    lines = ended.out.splitlines()
    assert "  reasoning      ?  asked to think, the model showed no reasoning" in lines
    refused = "  images         no lab: messages: image input is not supported by this model"
    assert any(line.startswith(refused) for line in lines)
    assert lines.count("  differs from its profile: parallel_tool_calls: false, images: false") == 2
    assert lines[-1] == "nothing is written; --write adds these differences to the file"


async def test_some_providers_only(place: Place) -> None:
    upstream = CapableUpstream()
    folder = await place(upstream)
    ended = await check(folder, "--live", "flow")
    assert list(rows(ended.out)) == ["flow/n"]
    assert {body["model"] for body in upstream.asked} == {"n"}
    (folder / "providers.yaml").rename(folder / "other.yaml")
    ended = await check(folder, "--live", "flow/n", "flow", "lab/spelled", "-c", "other.yaml")
    assert list(rows(ended.out)) == ["flow/n", "lab/spelled"]


async def test_who_takes_what_is_too_long_is_asked_too(place: Place) -> None:
    upstream = CapableUpstream()
    folder = await place(upstream)
    file = folder / "providers.yaml"
    file.write_text(file.read_text().replace("sonnet: lab/m", "sonnet: {use: lab/m, on_overflow: flow/large}"))
    ended = await check(folder, "--live", "flow", "--json")
    assert {row["target"]: row["names"] for row in json.loads(ended.out)["targets"]} == {
        "flow/large": ["sonnet"],
        "flow/n": ["haiku"],
    }
    assert {body["model"] for body in upstream.asked} == {"large", "n"}


async def test_variables_may_stand_in_an_environment_file(place: Place) -> None:
    """Also for the check of the file that is written: without its address it would not load."""
    folder = await place(CapableUpstream(**LIMITED))
    file = folder / "providers.yaml"
    (url,) = re.findall(r"base_url: (http\S+)\n", file.read_text())
    file.write_text(file.read_text().replace(f"base_url: {url}\n", "base_url: ${LAB_URL}\n"))
    env_file = written(folder, f"LAB_KEY={KEY}\nLAB_URL={url}\n", ".env")
    ended = await check(folder, "--live", "lab", "--write", "--env-file", env_file, key="a-key-of-the-process")
    assert ended.status == 0
    assert rows(ended.out)["lab/m"][0] == "ok"
    assert "images: false" in file.read_text()


async def test_the_json(place: Place) -> None:
    info = {"/v1/models": {"data": [{"id": "m", "max_model_len": 40960}]}}
    ended = await check(await place(CapableUpstream(info=info)), "--live", "--json", "lab")
    (row,) = json.loads(ended.out)["targets"]
    probes = row.pop("probes")
    assert row.pop("requests") > 10
    assert row == {
        "target": "lab/m",
        "names": ["sonnet", "haiku"],
        "api": "openai-chat",
        "usable": True,
        "facts": {"context_window": 40960},
    }
    assert probes["auth"] == {"mark": "ok", "note": "", "value": ""}
    assert probes["window"] == {"mark": "ok", "note": "", "value": "40960"}
    assert "tokens came from the cache" in probes["usage"]["note"]


# -- writing -----------------------------------------------------------------------------------------------


async def test_what_was_found_is_written_and_then_known(place: Place) -> None:
    folder = await place(CapableUpstream(**LIMITED))
    file = folder / "providers.yaml"
    before = file.read_text()
    ended = await process_of(folder, "--live", "--write")
    assert ended.status == 0
    day = file.read_text().partition("--live, ")[2][:10]
    comment = f"# found by gateway check --live, {day}"
    assert day[4] == day[7] == "-"
    block = f"""\
    models:
      m:
        parallel_tool_calls: false  {comment}
        images: false  {comment}
"""
    flow = before.splitlines()[6]
    expected = before.replace(f"{flow}\n", f"{block}  {comment}\n{flow}\n").replace(
        f'"{KEY}"}}', f'"{KEY}", models: {{"n": {{parallel_tool_calls: false, images: false}}}}}}'
    )
    assert file.read_text() == expected
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(folder) == ["providers.yaml"]
    diff = ended.out.splitlines()
    assert f"+        images: false  {comment}" in diff
    assert [line for line in diff if line.startswith("-  flow")] == [f"-{flow}".replace(KEY, "[key]")]
    again = await check(folder, "--live", "--write")
    assert again.out.splitlines()[-1] == "nothing to write: the profiles are right"
    assert file.read_text() == expected


async def test_what_cannot_be_written_is_shown_for_pasting(place: Place) -> None:
    folder = await place(CapableUpstream(**LIMITED))
    file = folder / "providers.yaml"
    shared = file.read_text().replace("  lab:   #", "  lab: &lab   #")
    file.write_text(shared)
    ended = await check(folder, "--live", "--write", "lab")
    assert ended.status == 1
    assert file.read_text() == shared
    pasted = ended.out.partition("to paste, merged with what is there:\n\n")[2].splitlines()
    assert [line.split("  #")[0] for line in pasted] == [
        "providers:",
        "  lab:",
        "    models:",
        "      m:",
        "        parallel_tool_calls: false",
        "        images: false",
    ]
    assert "not written: lab/m images: it stands inside a YAML anchor or alias" in ended.out
    ended = await check(folder, "--live", "--write", "--json", "lab")
    told = json.loads(ended.out)["write"]
    assert told["written"] == []
    assert [entry["field"] for entry in told["refused"]] == ["parallel_tool_calls", "images"]


# -- trouble -----------------------------------------------------------------------------------------------


async def test_a_wrong_key(place: Place) -> None:
    ended = await check(await place(CapableUpstream()), "--live", "lab", key="sk-wrong-0123456789")
    assert ended.status == 1
    assert rows(ended.out) == {"lab/m": ["no"] + ["-"] * 9}
    assert "lab refused the gateway's key; look at LAB_KEY" in ended.out


async def test_a_key_that_the_upstream_repeats(place: Place) -> None:
    """Even in a quoted form."""
    key = 'sk-"odd"-0123456789'
    upstream = CapableUpstream(fails=(500, {"error": {"message": f"bad request with {json.dumps(key)}"}}))
    ended = await check(await place(upstream), "--live", "lab", key=key)
    assert ended.status == 1
    assert json.dumps(key)[1:-1] not in ended.out
    ended = await check(await place(upstream), "--live", "--json", "lab", key=key)
    assert "odd" not in ended.out


async def test_nobody_listens(place: Place, unused_tcp_port: int) -> None:
    folder = await place(CapableUpstream())
    url = f"http://127.0.0.1:{unused_tcp_port}/v1"
    written(folder, FILE.format(url=url, key=KEY))
    ended = await check(folder, "--live", "--write")
    assert ended.status == 1
    assert rows(ended.out)["lab/m"] == ["?"] + ["-"] * 9
    assert "could not reach lab: connection refused" in ended.out


async def test_ctrl_c_ends_it_cleanly(place: Place) -> None:
    upstream = CapableUpstream(silent=True)
    folder = await place(upstream)
    before = (folder / "providers.yaml").read_bytes()
    process = await asyncio.create_subprocess_exec(
        *GATEWAY, "check", "--live", "--write", cwd=folder, env=environment(LAB_KEY=KEY),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(SECONDS):
            await upstream.begun.wait()
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
    finally:
        upstream.released.set()
        if process.returncode is None:
            process.kill()
    assert process.returncode == 130
    assert out == b""
    assert err.decode().splitlines()[1:] == ["stopped; nothing was written"]
    assert (folder / "providers.yaml").read_bytes() == before


async def test_progress_on_a_terminal(place: Place) -> None:
    folder = await place(CapableUpstream())
    ours, theirs = os.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *GATEWAY, "check", "--live", "lab", cwd=folder, env=environment(LAB_KEY=KEY, TERM="xterm"),
            stdout=asyncio.subprocess.PIPE, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        shown = await asyncio.gather(process.stdout.read(), asyncio.to_thread(_all_of, ours))  # type: ignore[union-attr]
        assert await process.wait() == 0
    finally:
        os.close(ours)
    assert b"100%" in shown[1]
    assert b"lab/m: tools" in shown[1]
    assert b"100%" not in shown[0]


def _all_of(terminal: int) -> bytes:
    """What was written to a terminal until its last writer left."""
    data = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # Linux: nobody writes any more
            return data
        if not piece:
            return data
        data += piece


# arguments -> exit status, and what stderr says
WRONG: dict[str, tuple[list[str], int, str]] = {
    "an unknown provider": (["--live", "ollama"], 2, "'ollama' is no provider of the file; there: lab, flow, bare."),
    "a file where providers go": (["--live", "providers.yaml"], 2, "A file goes with --config."),
    "no model that could be asked": (["--live", "bare"], 1, "name one: PROVIDER/MODEL"),
    "a file that is not there": (["--live", "-c", "gone.yaml"], 2, "gone.yaml: there is no such file"),
    "writing without asking": (["--write"], 2, "go with --live"),
    "JSON without asking": (["--json"], 2, "go with --live"),
    "two files": (["a.yaml", "b.yaml"], 2, "one FILE"),
    "no time at all": (["--live", "--timeout", "0"], 2, "--timeout"),
}


@pytest.mark.parametrize(("arguments", "status", "said"), WRONG.values(), ids=WRONG)
async def test_a_wrong_command_line(arguments: list[str], status: int, said: str, place: Place) -> None:
    upstream = CapableUpstream()
    folder = await place(upstream)
    file = folder / "providers.yaml"
    file.write_text(file.read_text().replace("models:\n  s", "  bare: {preset: echo}\nmodels:\n  s", 1))
    ended = await check(folder, *arguments)
    assert ended.status == status
    assert said in ended.err
    assert ended.out == ""
    assert upstream.asked == []


async def test_a_model_spelled_for_a_provider_that_takes_any_name(place: Place) -> None:
    upstream = CapableUpstream()
    folder = await place(upstream)
    file = folder / "providers.yaml"
    file.write_text("server: {direct_models: false}\n" + file.read_text())
    ended = await check(folder, "--live", "flow/any")
    assert list(rows(ended.out)) == ["flow/any"]
    ended = await check(folder, "--live", "lab/any")
    assert (ended.status, ended.out) == (2, "")
    assert "no name under 'models' leads to lab/any" in ended.err


async def test_the_file_alone_is_checked_as_ever(place: Place) -> None:
    upstream = CapableUpstream()
    folder = await place(upstream)
    for arguments in ([], ["providers.yaml"], ["-c", "providers.yaml"]):
        ended = await check(folder, *arguments)
        assert (ended.status, ended.out) == (0, "providers.yaml: ok, 3 model names, 2 providers\n")
    assert upstream.asked == []
