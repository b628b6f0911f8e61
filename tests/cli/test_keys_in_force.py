"""The keys of ``gateway keys`` at the door of a running gateway: who gets in, how soon a change counts (X1, X5)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.access.key_text import digest, make
from gateway.cli import main
from tests.server.faulty_upstream import FaultyUpstream, stream, whole
from tests.server.gateway_process import Gateway, Reply, running_gateway, turn, until

CONFIG = 'providers: {{echo: {{}}, lab: {{api: openai-chat, base_url: "{url}/v1"}}}}\nmodels: {{sonnet: echo/echo}}\n'
IN_FORCE = 2.2
"""Seconds after which a change counts (X5)."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[FaultyUpstream]:
    with FaultyUpstream() as server:
        yield server


def keys(folder: Path, *arguments: str) -> str:
    """The first line of what the command prints: the key, where it makes one."""
    ended = CliRunner().invoke(main, ["keys", *arguments, "--config", str(folder / "providers.yaml")])
    assert ended.exit_code == 0, ended.output
    return ended.stdout.splitlines()[0]


async def status(gateway: Gateway, key: str) -> int:
    return (await gateway.send("GET", "/v1/models", None, {"x-api-key": key})).status


async def becomes(gateway: Gateway, key: str, wanted: int) -> None:
    """Within the promised time, counted from now."""
    begin = time.monotonic()
    while await status(gateway, key) != wanted:
        assert time.monotonic() - begin < IN_FORCE, f"still not {wanted}"
        await asyncio.sleep(0.02)


def says(gateway: Gateway, words: str) -> Callable[[], Awaitable[bool]]:
    """Whether they stand in its log."""

    async def found() -> bool:
        return words in gateway.log()

    return found


# -- X1 ------------------------------------------------------------------------------------------------------


class Team:
    """A gateway whose only keys are in keys.yaml."""

    def __init__(self, folder: Path) -> None:
        self.good = keys(folder, "add", "anna")
        off, over, gone = (keys(folder, "add", name) for name in ("off", "over", "gone"))
        keys(folder, "disable", "off")
        keys(folder, "revoke", "gone")
        file = folder / "keys.yaml"
        # By hand, as no command makes a key that is over.
        file.write_text(file.read_text().replace("  over:\n", "  over:\n    expires: 2020-01-01\n"))
        wrong = "0" if self.good[20] != "0" else "1"
        self.bad = {
            "empty": "",
            "cut": self.good[:-1],
            "mistyped": self.good[:20] + wrong + self.good[21:],
            "longer": self.good + "0",
            "other case": self.good.swapcase(),
            "a stranger's": make(bytes(32)),
            "its digest": digest(self.good).hex(),
            "disabled": off,
            "expired": over,
            "revoked": gone,
            "its name": "anna",
        }
        self.every = [self.good, off, over, gone]


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, upstream: FaultyUpstream) -> Iterator[tuple[Gateway, Team]]:
    folder = tmp_path_factory.mktemp("team")
    config = CONFIG.format(url=upstream.url)
    (folder / "providers.yaml").write_text(config)
    found = Team(folder)
    with running_gateway(folder, config, "--log-level", "debug") as gateway:
        yield gateway, found
        log = gateway.log()
        assert not [key for key in found.every if key[3:46] in log]
        assert "Traceback" not in log


def headers_of(key: str) -> list[dict[str, str]]:
    """Each way to send it; what is sent beside it is wrong."""
    wrong = "sk-ant-somebody-elses"
    return [
        {"x-api-key": key},
        {"authorization": f"Bearer {key}"},
        {"x-api-key": key, "authorization": f"Bearer {wrong}"},
        {"x-api-key": wrong, "authorization": f"bearer {key}"},
    ]


async def test_a_key_opens_by_both_headers(team: tuple[Gateway, Team], upstream: FaultyUpstream) -> None:
    gateway, found = team
    script = upstream.script(stream(*whole("chat", "Hi")))
    for headers in headers_of(found.good):
        assert (await gateway.send("POST", "/v1/messages", turn(f"lab/{script.model}"), headers)).status == 200
        assert (await gateway.send("GET", "/v1/models", None, headers)).status == 200
    assert len(script.visits) == 4
    assert not [visit for visit in script.visits if found.good in repr(visit)]


async def refused(gateway: Gateway, model: str, headers: dict[str, str]) -> list[str]:
    """What is said to who asks with these headers."""
    answers: list[Reply] = [
        await gateway.send("POST", "/v1/messages", turn(model), headers),
        await gateway.send("POST", "/v1/messages/count_tokens", turn(model), headers),
        await gateway.send("GET", "/v1/models", None, headers),
    ]
    assert [answer.headers["x-should-retry"] for answer in answers] == ["false"] * 3
    return [answer.error(401, "authentication_error") for answer in answers]


async def test_no_bad_key_reaches_an_upstream(team: tuple[Gateway, Team], upstream: FaultyUpstream) -> None:
    gateway, found = team
    script = upstream.script(stream(*whole("chat", "Hi")))
    for key in found.bad.values():
        for headers in headers_of(key):
            for message in await refused(gateway, f"lab/{script.model}", headers):
                assert key == "anna" or not key or key not in message
    elsewhere: list[dict[str, str]] = [{"authorization": found.good}, {"authorization": f"Basic {found.good}"}]
    for headers in ({}, *elsewhere, {"cookie": f"x-api-key={found.good}"}):
        await refused(gateway, f"lab/{script.model}", headers)
    assert script.visits == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("cut", "mistyped or cut short"),
        ("mistyped", "mistyped or cut short"),
        ("a stranger's", "does not know this key"),
        ("revoked", "may have been revoked"),
        ("disabled", "the key off is disabled"),
        ("expired", "the key over has expired"),
    ],
)
async def test_a_typo_is_told_apart_from_a_stranger(team: tuple[Gateway, Team], kind: str, said: str) -> None:
    gateway, found = team
    for headers in headers_of(found.bad[kind]):
        for message in await refused(gateway, "sonnet", headers):
            assert said in message


# -- X5 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["one process", "two workers"])
async def test_every_change_counts_within_two_seconds(tmp_path: Path, workers: tuple[str, ...]) -> None:
    config = CONFIG.format(url="http://127.0.0.1:9")
    (tmp_path / "providers.yaml").write_text(config)
    anna = keys(tmp_path, "add", "anna")
    with running_gateway(tmp_path, config, *workers) as gateway:
        assert await status(gateway, anna) == 200
        # A mistake in the other file keeps no revoked key open.
        (tmp_path / "providers.yaml").write_text("models: [")
        bob = keys(tmp_path, "add", "bob")
        await becomes(gateway, bob, 200)
        keys(tmp_path, "disable", "bob")
        await becomes(gateway, bob, 401)
        keys(tmp_path, "enable", "bob")
        await becomes(gateway, bob, 200)
        new = keys(tmp_path, "rotate", "bob", "--grace", "0")
        await becomes(gateway, bob, 401)
        await becomes(gateway, new, 200)
        # A half-written or deleted file is no revocation.
        whole_file = (tmp_path / "keys.yaml").read_bytes()
        (tmp_path / "keys.yaml").write_bytes(b"")
        await until(says(gateway, "the file is empty"))
        assert await status(gateway, new) == 200
        (tmp_path / "keys.yaml").write_bytes(whole_file)
        for name in ("anna", "bob"):
            keys(tmp_path, "revoke", name)
        begin = time.monotonic()
        for key in (anna, new):
            await becomes(gateway, key, 401)
        await asyncio.sleep(max(0.0, begin + IN_FORCE - time.monotonic()))
        # Nobody is let in because the last key is gone, by no worker, and not by a file that is gone either.
        for _ in range(8):
            assert [await status(gateway, key) for key in (anna, new, "")] == [401] * 3
        (tmp_path / "keys.yaml").unlink()
        await until(says(gateway, "the file is gone"))
        assert [await status(gateway, key) for key in (anna, "")] == [401] * 2


async def test_the_first_key_closes_the_door(tmp_path: Path) -> None:
    with running_gateway(tmp_path, CONFIG.format(url="http://127.0.0.1:9")) as gateway:
        assert await status(gateway, "") == 200
        anna = keys(tmp_path, "add", "anna")
        await becomes(gateway, "", 401)
        await becomes(gateway, anna, 200)
