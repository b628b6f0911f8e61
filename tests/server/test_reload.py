"""Editing providers.yaml while the gateway runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.faulty_upstream import Connection, FaultyUpstream, beginning, stream, whole
from tests.server.gateway_process import KEYS, Gateway, Reply, open_stream, running_gateway, until

POLL_OFTEN = "import gateway.server.run as run; run.POLL_SECONDS = 0.03"
CONFIG = """\
server: {{token: "{token}"}}
providers:
  lab: {{api: openai-chat, base_url: "{url}/v1", api_key: "${{LAB_KEY}}"}}
models: {{sonnet: lab/{model}}}
"""
OLD_TOKEN, NEW_TOKEN = "gw-old-098f6bcd4621", "gw-new-ad0234829205"
BAD_FILES = {
    "half": b"providers:\n  lab: {api: openai-ch",
    "empty": b"",
    "no YAML": b"\t{{{",
    "binary": bytes(range(256)),
    "a list": b"- a\n- b\n",
    "unknown key": b"providers: {echo: {}}\nmodels: {sonnet: echo/x}\nmodel: {a: b}\n",
    "key twice": b"providers: {echo: {}}\nproviders: {echo: {}}\nmodels: {sonnet: echo/x}\n",
    "nobody": b"providers: {echo: {}}\nmodels: {sonnet: nobody/x}\n",
    "alias bomb": b"a: &a [x]\nb: &b [" + b"*a," * 999 + b"]\nc: &c [" + b"*b," * 999 + b"]\n",
    "too large": b"# " + b"x" * (2 << 20) + b"\n",
    "too deep": b"[" * 5000,
}


async def state(gateway: Gateway) -> dict[str, str]:
    reply = await gateway.send("GET", "/readyz")
    assert reply.status == 200
    answer: dict[str, str] = reply.json
    assert answer["status"] == "ready"
    return answer


async def test_a_stream_keeps_the_route_it_began_with(upstream: FaultyUpstream, tmp_path: Path) -> None:
    gate = upstream.gate()

    async def held(connection: Connection) -> None:
        await connection.start()
        for piece in beginning("chat", "Old "):
            await connection.chunk(piece)
        await gate.wait()
        for piece in whole("chat", "route"):
            await connection.chunk(piece)
        await connection.end("whole")

    one, two = upstream.script(held), upstream.script(stream(*whole("chat", "New route")))
    text = CONFIG.format(url=upstream.url, model=one.model, token="")
    with running_gateway(tmp_path, text, before=POLL_OFTEN) as gateway:
        async with open_stream(gateway, "claude-sonnet-5") as response:
            received = await response.content.readany()
            new = tmp_path / "new.yaml"
            new.write_text(CONFIG.format(url=upstream.url, model=two.model, token=""))
            new.replace(tmp_path / "providers.yaml")

            async def switched() -> bool:
                return f"sonnet: lab/{one.model} → lab/{two.model}" in gateway.log()

            await until(switched)
            reply = await gateway.ask("claude-sonnet-5")
            assert reply.headers["x-gateway-target"] == f"lab/{two.model}"
            assert reply.reading().content[0]["text"] == "New route"
            gate.open()
            old = Reply(response.status, response.headers, received + await response.read())
        assert old.headers["x-gateway-target"] == f"lab/{one.model}"
        assert old.reading().content[0]["text"] == "Old route"
        assert len(one.visits) == 1


async def test_a_bad_file_changes_nothing_and_says_why(upstream: FaultyUpstream, tmp_path: Path) -> None:
    one, two = (upstream.script(stream(*whole("chat", word))) for word in ("One", "Two"))
    file = tmp_path / "providers.yaml"
    errors: set[str | None] = {None}
    text = CONFIG.format(url=upstream.url, model=one.model, token="")
    with running_gateway(tmp_path, text, before=POLL_OFTEN) as gateway:

        async def told() -> bool:
            return (await state(gateway)).get("config_error") not in errors

        for name, content in {**BAD_FILES, "deleted": None}.items():
            if content is None:
                file.unlink()
            else:
                file.write_bytes(content)
            await until(told)
            error = (await state(gateway))["config_error"]
            errors.add(error)
            assert "providers.yaml" in error, name
            assert "Traceback" not in error
            reply = await gateway.ask("sonnet", stream=False)
            assert reply.json["content"][0]["text"] == "One", name
        file.write_text(CONFIG.format(url=upstream.url, model=two.model, token=""))

        async def well() -> bool:
            return "config_error" not in await state(gateway)

        await until(well)
        assert (await gateway.ask("sonnet", stream=False)).json["content"][0]["text"] == "Two"
        log = gateway.log()
    assert "Traceback" not in log
    assert not [key for key in KEYS.values() if key in log]


async def test_a_new_token_is_asked_for_at_once_and_the_old_one_never_shown(
    upstream: FaultyUpstream, tmp_path: Path
) -> None:
    script = upstream.script(stream(*whole("chat", "Hi")))
    text = CONFIG.format(url=upstream.url, model=script.model, token=OLD_TOKEN)
    with running_gateway(tmp_path, text, token=OLD_TOKEN, before=POLL_OFTEN) as gateway:
        assert (await gateway.ask("sonnet")).status == 200
        (tmp_path / "providers.yaml").write_text(text.replace(OLD_TOKEN, NEW_TOKEN))
        new = Gateway(gateway.url, NEW_TOKEN)

        async def admitted() -> bool:
            return (await new.ask("sonnet")).status == 200

        await until(admitted)
        (await gateway.ask("sonnet")).error(401, "authentication_error")
        assert OLD_TOKEN not in gateway.log()
        assert NEW_TOKEN not in gateway.log()


async def test_a_change_that_needs_a_restart_is_told(tmp_path: Path) -> None:
    text = "providers: {echo: {}}\nmodels: {sonnet: echo/x}\n"
    with running_gateway(tmp_path, text, before=POLL_OFTEN) as gateway:
        (tmp_path / "providers.yaml").write_text("server: {port: 4999}\n" + text)

        async def told() -> bool:
            return "server.port changed: takes effect after a restart" in gateway.log()

        await until(told)
        assert (await gateway.ask("sonnet")).status == 200


@pytest.mark.parametrize("host", ["0.0.0.0"])
async def test_no_reload_takes_the_token_away_from_an_open_address(tmp_path: Path, host: str) -> None:
    """Started with a token on every address; without one it would never have started."""
    text = "providers: {echo: {}}\nmodels: {sonnet: echo/x}\n"
    guarded = f'server: {{host: "{host}", token: "{OLD_TOKEN}"}}\n{text}'
    with running_gateway(tmp_path, guarded, before=POLL_OFTEN) as started:
        port = started.url.rpartition(":")[2]
        gateway = Gateway(f"http://127.0.0.1:{port}")
        (await gateway.ask("sonnet")).error(401)
        (tmp_path / "providers.yaml").write_text(f'server: {{host: "{host}"}}\n{text}')
        log = len(started.log())

        async def seen() -> bool:
            return len(started.log()) > log

        await until(seen)
        (await gateway.ask("sonnet")).error(401, "authentication_error")
