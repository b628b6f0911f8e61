"""Group C: the file is edited while others stream, in every way that editors and Kubernetes do it.

Nothing here shortens the product's own clocks: the figures are those that a user has.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, TCPConnector

from tests.cli.gateway_command import run, written
from tests.faults.footprint import Footprint, Stopwatch, children_seconds
from tests.server.faulty_upstream import Connection, FaultyUpstream, Gate, Script, beginning, stream, whole
from tests.server.gateway_process import Gateway, Reply, open_stream, running_gateway, turn, until

LIVE_SECONDS, WORST_SECONDS, BOMB_SECONDS = 2.0, 1.0, 0.5
CONFIG = """\
providers:
  lab: {{api: openai-chat, base_url: "{url}/v1", api_key: "${{LAB_KEY}}"}}
models: {{sonnet: lab/{model}}}
"""


def held(gate: Gate) -> Callable[[Connection], object]:
    async def answer(connection: Connection) -> None:
        await connection.start()
        await connection.chunk(b"".join(beginning("chat", "Old ")))
        await gate.wait()
        await connection.chunk(b"".join(whole("chat", "route")))
        await connection.end("whole")

    return answer


# -- ways to save a file -----------------------------------------------------------------------------------


def in_place(folder: Path, text: str) -> None:
    (folder / "providers.yaml").write_text(text)


def by_rename(folder: Path, text: str) -> None:
    new = folder / ".providers.yaml.swp"
    new.write_text(text)
    new.replace(folder / "providers.yaml")


_numbers = itertools.count()


def by_link(folder: Path, text: str) -> None:
    """As Kubernetes does it: ``..data`` is swapped for a link to another folder, the file's own link stays."""
    data = folder / f"..{next(_numbers)}"
    data.mkdir()
    (data / "providers.yaml").write_text(text)
    link = folder / "..data_tmp"
    link.symlink_to(data.name)
    link.replace(folder / "..data")
    file = folder / "providers.yaml"
    if not file.is_symlink():
        file.unlink()
        file.symlink_to("..data/providers.yaml")


@pytest.mark.parametrize("save", [in_place, by_rename, by_link])
async def test_a_save_is_live_within_two_seconds(
    upstream: FaultyUpstream, tmp_path: Path, save: Callable[[Path, str], None]
) -> None:
    """C1, C13: twice in a row; the stream that began before the first save is whole, and on its old route."""
    gate = upstream.gate()
    old = upstream.script(held(gate))  # type: ignore[arg-type]
    news = [upstream.script(stream(*whole("chat", f"New {number}"))) for number in range(2)]
    with running_gateway(tmp_path, CONFIG.format(url=upstream.url, model=old.model)) as gateway:
        async with open_stream(gateway, "sonnet") as response:
            received = await response.content.readany()
            for new in news:
                save(tmp_path, CONFIG.format(url=upstream.url, model=new.model))
                watch = Stopwatch(gateway.pid)

                async def switched(model: str = new.model) -> bool:
                    # Asked by a count, because the old route holds whoever asks it.
                    return f"→ lab/{model}" in gateway.log()

                await until(switched)
                answer = await gateway.ask("sonnet", stream=False)
                assert watch.seconds() <= LIVE_SECONDS
                assert answer.headers["x-gateway-target"] == f"lab/{new.model}"
            gate.open()
            reply = Reply(response.status, response.headers, received + await response.read())
        assert reply.reading().content[0]["text"] == "Old route"
        assert len(old.visits) == 1


# -- bad files ---------------------------------------------------------------------------------------------

ALIASES = b"a: &a [x]\n" + b"".join(
    b"%c: &%c [%b]\n" % (97 + n, 97 + n, b",".join([b"*%c" % (96 + n)] * 9)) for n in range(1, 12)
)
MERGES = b"m0: &m0 {k: v}\n" + b"".join(
    b"m%d: &m%d {<<: [%b]}\n" % (n, n, b",".join([b"*m%d" % (n - 1)] * 10)) for n in range(1, 9)
)
BOMBS = {
    "aliases": ALIASES,
    "merges": MERGES,
    "depth": b"[" * 500_000,
    "depth of blocks": b"".join(b" " * depth + b"a:\n" for depth in range(1200)),
    "depth of dashes": b"- " * 400_000,
    "a million keys": b"{" + b"a: b, " * 160_000 + b"}",
    "one long word": b"models: {a: " + b"x" * 1_000_000 + b"}",
    "anchors": b"".join(b"a%d: &a%d x\n" % (n, n) for n in range(50_000)),
}
BAD_FILES: dict[str, bytes] = {
    "half": b"providers:\n  lab: {api: openai-ch",
    "empty": b"",
    "tabs": b"\t{{{",
    "binary": bytes(range(256)),
    "a list": b"- a\n- b\n",
    "unknown key": b"providers: {echo: {}}\nmodels: {sonnet: echo/x}\nmodle: {a: b}\n",
    "key twice": b"providers: {echo: {}}\nproviders: {echo: {}}\nmodels: {sonnet: echo/x}\n",
    "nobody": b"providers: {echo: {}}\nmodels: {sonnet: nobody/x}\n",
    "a Python object": b"a: !!python/object/apply:os.system [ls]\n",
    "too large": b"# " + b"x" * (2 << 20) + b"\n",
    "aliases": ALIASES,
    "merges": MERGES,
    "depth": BOMBS["depth"],
}


@asynccontextmanager
async def asking(gateway: Gateway) -> AsyncIterator[list[float]]:
    """Somebody asks all the time; the seconds that each answer took. Raises AssertionError for another answer."""
    waits: list[float] = []

    async def ask(session: ClientSession) -> None:
        while True:
            watch = Stopwatch(gateway.pid)
            async with session.post(f"{gateway.url}/v1/messages", json=turn("sonnet")) as response:
                assert (await response.json())["content"][0]["text"] == "One"
            waits.append(watch.seconds())
            async with session.get(f"{gateway.url}/readyz") as response:
                assert response.status == 200
            await asyncio.sleep(0.01)

    async with ClientSession() as session:
        client = asyncio.create_task(ask(session))
        try:
            yield waits
        finally:
            client.cancel()
            done, _ = await asyncio.wait([client])
            for task in done:
                if not task.cancelled() and task.exception() is not None:
                    raise AssertionError("the other user got no answer") from task.exception()


async def refused(gateway: Gateway, before: str | None) -> str:
    """The reason why the file is not in force, once it is another one than ``before``."""
    reason: str | None = None

    async def told() -> bool:
        nonlocal reason
        state = await gateway.send("GET", "/readyz")
        assert state.status == 200
        reason = state.json.get("config_error")
        return reason is not None and reason != before

    await until(told)
    assert reason is not None
    return reason


async def test_bad_files_change_nothing_and_hold_nobody_up(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """C2: thirteen of them and a deletion; then a good one is taken."""
    one, two = (upstream.script(stream(*whole("chat", word))) for word in ("One", "Two"))
    file = tmp_path / "providers.yaml"
    reason: str | None = None
    poll = "import gateway.server.run as run; run.POLL_SECONDS = 0.1"
    with running_gateway(tmp_path, CONFIG.format(url=upstream.url, model=one.model), before=poll) as gateway:
        async with asking(gateway) as waits:
            for content in BAD_FILES.values():
                file.write_bytes(content)
                reason = await refused(gateway, reason)
                assert "providers.yaml" in reason
                assert len(reason) < 5000
            file.unlink()
            await refused(gateway, reason)
        assert max(waits) <= WORST_SECONDS
        assert len(waits) > len(BAD_FILES)
        file.write_text(CONFIG.format(url=upstream.url, model=two.model))

        async def well() -> bool:
            return "config_error" not in (await gateway.send("GET", "/readyz")).json

        await until(well)
        assert (await gateway.ask("sonnet", stream=False)).json["content"][0]["text"] == "Two"
        assert "Traceback" not in gateway.log()


@pytest.fixture(scope="module")
def plain_check(tmp_path_factory: pytest.TempPathFactory) -> float:
    """CPU time of a check that finds a small mistake."""
    return min(check_seconds(tmp_path_factory.mktemp("plain"), b"models: {a: nobody/x}\n") for _ in range(2))


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_in_half_a_second(bomb: bytes, plain_check: float, tmp_path: Path) -> None:
    """C4: by the CPU time of ``gateway check``, beyond that of a file with a plain mistake."""
    assert check_seconds(tmp_path, bomb) - plain_check <= BOMB_SECONDS


def check_seconds(folder: Path, content: bytes) -> float:
    """CPU time of a check that finds a mistake in this file."""
    file = folder / "providers.yaml"
    file.write_bytes(content)
    before = children_seconds()
    ended = subprocess.run(
        [sys.executable, "-m", "gateway", "check", str(file)], capture_output=True, timeout=30, cwd=file.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}, check=False,
    )  # fmt: skip
    spent = children_seconds() - before
    assert ended.returncode == 2, ended.stderr[-500:]
    assert b"Traceback" not in ended.stderr + ended.stdout
    return spent


async def test_no_bomb_stops_the_loop(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """C4: others are answered meanwhile as ever."""
    one = upstream.script(stream(*whole("chat", "One")))
    file = tmp_path / "providers.yaml"
    reason: str | None = None
    poll = "import gateway.server.run as run; run.POLL_SECONDS = 0.1"
    with running_gateway(tmp_path, CONFIG.format(url=upstream.url, model=one.model), before=poll) as gateway:
        assert (await gateway.ask("sonnet")).status == 200
        async with asking(gateway) as waits:
            for content in BOMBS.values():
                file.write_bytes(content)
                reason = await refused(gateway, reason)
        assert max(waits) <= BOMB_SECONDS


# -- check -------------------------------------------------------------------------------------------------

MISTAKES = {
    "key twice": ("providers: {echo: {}}\nmodels:\n  a: echo/x\n  a: echo/y\n", 4, "'a'"),
    "unknown key": ("providers: {echo: {}}\nmodels: {a: echo/x}\nserver: {prot: 1}\n", 3, "'prot'"),
    "unknown provider": ("providers: {echo: {}}\nmodels:\n  b: echo/x\n  a: ehco/x\n", 4, "'ehco'"),
    "wrong type": ("providers: {echo: {}}\nmodels: {a: echo/x}\nserver:\n  port: many\n", 4, "port"),
    "broken off": ('providers: {echo: {}}\nmodels: {a: "echo/x\n', 3, ""),
    "a bomb": (MERGES.decode(), 0, ""),
}


@pytest.mark.parametrize(("text", "line", "named"), MISTAKES.values(), ids=MISTAKES)
def test_check_names_the_place(text: str, line: int, named: str, tmp_path: Path) -> None:
    """C3, C10: exit 2, the line and the key, no traceback, in less than three seconds (of CPU time)."""
    began = children_seconds()
    ended = run("check", written(tmp_path, text), cwd=tmp_path)
    assert children_seconds() - began < 3
    assert ended.status == 2
    said = ended.out + ended.err
    assert "Traceback" not in said
    if line:
        assert f"providers.yaml:{line}" in said
    assert named in said


def test_check_needs_no_network_and_names_the_variable(tmp_path: Path) -> None:
    """C10: exit 0 with a key missing; nobody is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        text = f'providers: {{lab: {{api: openai-chat, base_url: "{url}", api_key: "${{NO_SUCH_KEY}}"}}}}\n'
        began = children_seconds()
        ended = run("check", written(tmp_path, text + "models: {sonnet: lab/m}\n"), cwd=tmp_path)
        assert children_seconds() - began < 3
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert ended.status == 0, ended.err
    assert "NO_SUCH_KEY" in ended.out + ended.err


# -- signals and storms ------------------------------------------------------------------------------------


async def test_sighup_forces_a_reload(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """C11: the same bytes, and a line in the log all the same; a running stream goes on."""
    gate = upstream.gate()
    old = upstream.script(held(gate))  # type: ignore[arg-type]
    with running_gateway(tmp_path, CONFIG.format(url=upstream.url, model=old.model)) as gateway:
        async with open_stream(gateway, "sonnet") as response:
            received = await response.content.readany()
            lines = gateway.log().count("reload")
            gateway.signal(signal.SIGHUP)

            async def told() -> bool:
                assert gateway.process is not None
                assert gateway.process.poll() is None, "SIGHUP ended it"
                return gateway.log().count("reload") > lines

            await until(told)
            gate.open()
            reply = Reply(response.status, response.headers, received + await response.read())
        assert reply.reading().finished
        (tmp_path / "providers.yaml").write_bytes(BAD_FILES["half"])
        gateway.signal(signal.SIGHUP)
        assert "providers.yaml" in await refused(gateway, None)


STREAMS, EDITS, STORM_SECONDS = 200, 100, 10.0


async def test_a_storm_of_edits(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """C12: a hundred saves in ten seconds, every third of them bad, under two hundred streams.

    No request fails, none goes where no version of the file ever sent it, and nothing is left behind.
    """
    gate = upstream.gate()
    long = upstream.script(held(gate))  # type: ignore[arg-type]
    targets = [upstream.script(stream(*whole("chat", f"Target {number}"))) for number in range(4)]
    names = {f"lab/{script.model}": f"Target {number}" for number, script in enumerate(targets)}
    text = CONFIG.replace("{{sonnet: lab/{model}}}", "{{sonnet: lab/{model}, opus: lab/{long}}}")
    bad = itertools.cycle([BAD_FILES["half"], BAD_FILES["nobody"], BAD_FILES["merges"], b""])
    over = asyncio.Event()
    answered = 0

    def version(script: Script) -> str:
        return text.format(url=upstream.url, model=script.model, long=long.model)

    async def ask(gateway: Gateway, session: ClientSession) -> None:
        nonlocal answered
        while not over.is_set():
            url = f"{gateway.url}/v1/messages"
            async with session.post(url, json=turn("sonnet", stream=bool(answered % 2))) as response:
                body = await response.read()
                assert response.status == 200, body
                assert names[response.headers["x-gateway-target"]].encode() in body
            answered += 1
            await asyncio.sleep(0.02)

    async def hold(gateway: Gateway, session: ClientSession) -> Reply:
        async with session.post(f"{gateway.url}/v1/messages", json=turn("opus", stream=True)) as response:
            return Reply(response.status, response.headers, await response.read())

    async def edit() -> None:
        began = time.monotonic()
        for number in range(EDITS):
            save = (in_place, by_rename)[number % 2]
            if number % 3 == 2:
                (tmp_path / "providers.yaml").write_bytes(next(bad))
            else:
                save(tmp_path, version(targets[number % 4]))
            await asyncio.sleep(max(0.0, began + (number + 1) * STORM_SECONDS / EDITS - time.monotonic()))
        in_place(tmp_path, version(targets[3]))

    with running_gateway(tmp_path, version(targets[0])) as gateway:
        footprint = Footprint(gateway.pid)
        async with ClientSession(connector=TCPConnector(limit=0)) as session:
            streams = [asyncio.create_task(hold(gateway, session)) for _ in range(STREAMS)]
            for _ in range(STREAMS):
                await long.visit()
            clients = [asyncio.create_task(ask(gateway, session)) for _ in range(4)]
            await until(lambda: asyncio.sleep(0, answered > 20))
            descriptors = footprint.descriptors()
            await edit()

            async def settled() -> bool:
                answer = await gateway.ask("sonnet", stream=False)
                return answer.headers["x-gateway-target"] == f"lab/{targets[3].model}"

            await until(settled)
            assert footprint.descriptors() <= descriptors + 24
            over.set()
            await asyncio.gather(*clients)
            gate.open()
            for reply in await asyncio.gather(*streams):
                assert reply.reading().content[0]["text"] == "Old route"
        assert answered > 100
        assert "Traceback" not in gateway.log()
