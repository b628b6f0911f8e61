"""The admin listener from outside: what it shows and to whom, and one view of several workers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from gateway.server.listening_socket import SPREADS
from tests.cli.gateway_command import Ended, run, written
from tests.server.faulty_upstream import FaultyUpstream
from tests.server.gateway_process import PATIENCE, TOKEN, Gateway, Reply, gateway_in_process, open_stream, until
from tests.server.service import ask_often, service
from tests.server.test_metrics import Samples, value
from tests.server.test_stop import CONFIG, held, stopping
from tests.server.test_workers import alive, fresh_port, workers

ADMIN = "server: {admin: {port: 0}}\n"
ECHO = f"{ADMIN}providers: {{echo: {{}}}}\nmodels: {{sonnet: echo/one, default: sonnet}}\n"
needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="the workers are found by /proc")


def admin_url(gateway: Gateway) -> str:
    """As the log says it."""
    found = re.search(r"metrics are at (\S+)/metrics", gateway.log())
    assert found is not None, gateway.log()
    return found[1]


async def get(url: str, method: str = "GET", **headers: str) -> Reply:
    async with (
        ClientSession(timeout=PATIENCE) as session,
        session.request(method, url, headers=headers) as response,
    ):
        return Reply(response.status, response.headers, await response.read())


async def scrape(gateway: Gateway) -> Samples:
    """On a connection of its own, so that any of the workers may answer."""
    reply = await get(f"{admin_url(gateway)}/metrics")
    assert reply.status == 200
    families = text_string_to_metric_families(reply.body.decode())
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with service(tmp_path_factory.mktemp("admin"), config=ECHO) as started:
        yield started


# -- what it shows ---------------------------------------------------------------------------------------


async def test_a_request_is_in_the_next_scrape(gateway: Gateway) -> None:
    assert (await gateway.ask("sonnet")).status == 200
    before = await scrape(gateway)
    assert (await gateway.ask("sonnet")).status == 200
    assert (await gateway.ask("sonnet", stream=False)).status == 200
    assert (await gateway.ask("sonnet", messages=3)).status == 400
    after = await scrape(gateway)
    for name, more in (
        ("gateway_requests_total", 3),
        ("gateway_upstream_attempts_total", 2),
        ("gen_ai_server_request_duration_seconds_count", 2),
        ("gen_ai_server_time_to_first_token_seconds_count", 2),
    ):
        assert value(after, name) == value(before, name) + more, name
    assert value(after, "gateway_inflight_streams") == 0


async def test_invented_names(gateway: Gateway) -> None:
    """O3: 180 of them add less than 20 series."""
    await ask_often(gateway, 1, 1)
    before = await scrape(gateway)
    for number in range(60):
        for model in (f"invented-{number}", f"claude-sonnet-{number}", f"nobody/{number}"):
            assert (await gateway.ask(model, stream=False)).status == 200
    after = await scrape(gateway)
    assert value(after, "gateway_requests_total") == value(before, "gateway_requests_total") + 180
    assert len(after) - len(before) < 20
    assert "invented" not in str(after)


async def test_both_formats(gateway: Gateway) -> None:
    url = f"{admin_url(gateway)}/metrics"
    plain = await get(url, accept="text/plain")
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    wanted = "application/openmetrics-text; version=1.0.0; escaping=allow-utf-8, text/plain;version=0.0.4;q=0.5"
    for accept in (wanted, "application/openmetrics-text; version=what"):
        found = await get(url, accept=accept)
        assert found.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert found.body.endswith(b"# EOF\n")
        names = {family.name for family in open_metrics(found.body.decode())}
        assert {"gateway_requests", "gen_ai_server_request_duration_seconds", "gateway"} <= names


async def test_there_is_nothing_else(gateway: Gateway) -> None:
    url = admin_url(gateway)
    for path in ("/", "/v1/messages", "/v1/models", "/metrics/", "/drain"):
        reply = await get(url + path)
        assert reply.status == 404, path
        assert reply.headers["server"] == "messages-gateway"
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert (await get(f"{url}/metrics", method)).status == 405
    assert (await get(f"{url}/healthz")).json == {"status": "ok"}
    assert (await get(f"{url}/readyz")).json == {"status": "ready"}
    assert (await get(f"{url}/metrics", "HEAD")).status == 200
    (await gateway.send("GET", "/metrics")).error(404)


async def test_no_web_page_reads_it(gateway: Gateway) -> None:
    url = f"{admin_url(gateway)}/metrics"
    assert (await get(url, host="rebound.example")).status == 403
    reply = await get(url, origin="https://page.example")
    assert reply.status == 403
    assert "access-control-allow-origin" not in reply.headers


async def test_there_is_none_by_default(tmp_path: Path) -> None:
    async with gateway_in_process("providers: {echo: {}}\nmodels: {sonnet: echo/one}\n") as plain:
        for path in ("/metrics", "/metrics?x", "/admin"):
            (await plain.send("GET", path)).error(404)
    with service(tmp_path) as started:
        assert "metrics are at" not in started.log()


async def test_health_touches_no_upstream(tmp_path: Path) -> None:
    """O4: on both ports, and a scrape neither. The one connection is the gateway's look around at its start."""
    connections = 0

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    async def looked_around() -> bool:
        return connections == 1

    async with await asyncio.start_server(upstream, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        config = ADMIN + CONFIG.format(url=url).replace("echo/echo", "lab/m")
        with service(tmp_path, config=config) as started:
            await until(looked_around)
            for _ in range(10):
                for place in (started.url, admin_url(started)):
                    for path in ("/healthz", "/readyz"):
                        assert (await get(place + path)).status == 200
                assert await scrape(started)
            assert connections == 1
            assert (await started.ask("sonnet")).status == 502
            assert connections > 1, "it would have been seen"


async def test_a_blocked_loop_is_seen(tmp_path: Path) -> None:
    blocks = """
import asyncio, time
import gateway.server.loop_stall as loop_stall
def block():
    time.sleep(0.6)
watch = loop_stall.watch_loop
async def watch_and_block(metrics):
    asyncio.get_running_loop().call_later(0.3, block)
    await watch(metrics)
loop_stall.watch_loop = watch_and_block
"""
    with service(tmp_path, config=ECHO, before=blocks) as started:

        async def seen() -> bool:
            found = await scrape(started)
            name = "gateway_loop_stall_seconds"
            late = value(found, f"{name}_count") - value(found, f"{name}_bucket", le="0.25")
            return late >= 1 and value(found, f"{name}_sum") < 5

        await until(seen)


async def test_a_bad_file_is_seen(tmp_path: Path) -> None:
    with service(tmp_path, config=ECHO, before="import gateway.server.run as run; run.POLL_SECONDS = 0.05") as started:
        assert value(await scrape(started), "gateway_config_stale") == 0
        (tmp_path / "providers.yaml").write_text(ECHO.replace("echo/one", "ehco/one"))

        async def stale() -> bool:
            return value(await scrape(started), "gateway_config_stale") == 1

        await until(stale)
        assert "config_error" in (await get(f"{admin_url(started)}/readyz")).json


async def test_what_is_wrong_is_for_who_has_a_key_or_is_on_the_machine(tmp_path: Path) -> None:
    config = ECHO.replace("{admin: {port: 0}}", f"{{token: {TOKEN}, admin: {{port: 0}}}}")
    poll = "import gateway.server.run as run; run.POLL_SECONDS = 0.05"
    with service(tmp_path, config=config, before=poll) as started:
        (tmp_path / "providers.yaml").write_text(config.replace("echo/one", "ehco/one"))

        async def said(url: str = started.url, **headers: str) -> str:
            reply = await get(f"{url}/readyz", **headers)
            assert reply.status == 200
            return str(reply.json.get("config_error", ""))

        await until(said)
        for headers in ({}, {"x-api-key": "wrong"}):
            assert await said(**headers) == "the log says what; so does this page, to who sends a key"
        assert "'ehco' is not under 'providers'" in await said(**{"x-api-key": TOKEN})
        assert "'ehco' is not under 'providers'" in await said(admin_url(started))


# -- who may ask -----------------------------------------------------------------------------------------


def serve(folder: Path, config: str, *options: str) -> Ended:
    """A start that is expected to fail."""
    return run("serve", "--config", written(folder, config), "--port", "0", *options, cwd=folder)


def test_the_network_needs_a_token(tmp_path: Path) -> None:
    ended = serve(tmp_path, ECHO.replace("port: 0", "port: 0, host: 0.0.0.0"))
    assert (ended.status, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert "refusing to show metrics on 0.0.0.0" in line
    assert "server.token" in line


async def test_from_the_network_only_with_the_token(tmp_path: Path) -> None:
    config = ECHO.replace("{admin: {port: 0}}", f"{{token: {TOKEN}, admin: {{port: 0, host: 0.0.0.0}}}}")
    with service(tmp_path, config=config) as started:
        url = admin_url(started).replace("0.0.0.0", "127.0.0.1")
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}, {"x-api-key": TOKEN}):
            reply = await get(f"{url}/metrics", **headers)
            assert reply.status == 401
            assert reply.headers["www-authenticate"] == "Bearer"
            assert b"gateway_" not in reply.body
        assert (await get(f"{url}/metrics", authorization=f"Bearer {TOKEN}")).status == 200
        assert (await get(f"{url}/metrics", host="metrics.example", authorization=f"bearer {TOKEN}")).status == 200
        assert (await get(f"{url}/healthz")).status == 200, "as on the clients' port"


@pytest.mark.parametrize("count", [1, 2])
def test_a_taken_port_ends_the_start(tmp_path: Path, count: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = serve(tmp_path, ECHO.replace("port: 0", f"port: {port}"), "--workers", str(count))
    assert (ended.status, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert f"server.admin: port {port} on 127.0.0.1 is taken" in line


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "x" * 300])
def test_an_address_that_is_not_ours_ends_the_start(tmp_path: Path, host: str) -> None:
    ended = serve(tmp_path, ECHO.replace("{admin: {port: 0}}", f"{{token: abc, admin: {{port: 0, host: {host}}}}}"))
    assert (ended.status, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert "server.admin" in line


# -- the end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=needs_proc)])
async def test_it_stays_through_the_drain(upstream: FaultyUpstream, tmp_path: Path, count: int) -> None:
    gate = upstream.gate()
    script = upstream.script(held(gate))  # type: ignore[arg-type]
    config = ADMIN + CONFIG.format(url=upstream.url)
    with service(tmp_path, "--workers", str(count), config=config) as started:
        url = admin_url(started)
        async with open_stream(started, f"lab/{script.model}") as response:
            await response.content.readany()

            async def counted() -> bool:
                return value(await scrape(started), "gateway_inflight_streams") == 1

            await until(counted)
            started.signal(signal.SIGTERM)
            await stopping(started)
            reply = await get(f"{url}/readyz")
            assert reply.status == 503
            assert reply.json["status"] == "draining"
            assert (await get(f"{url}/healthz")).status == 200
            await until(counted)
            gate.open()
            await response.read()
        assert await started.exit_status() == 0
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))


@pytest.mark.skipif(not SPREADS, reason="only Linux is told where connections go")
@pytest.mark.parametrize("count", [1, pytest.param(2, marks=needs_proc)])
async def test_a_gateway_that_joins_gets_the_scrapes(upstream: FaultyUpstream, tmp_path: Path, count: int) -> None:
    """While the old one still drains."""
    gate = upstream.gate()
    script = upstream.script(held(gate))  # type: ignore[arg-type]
    config = CONFIG.format(url=upstream.url) + f"server: {{admin: {{port: {fresh_port()}}}}}\n"
    folders = [tmp_path / name for name in ("old", "new")]
    for folder in folders:
        folder.mkdir()
    options = ("--reuse-port", "--workers", str(count))
    with service(folders[0], *options, config=config) as old:
        async with open_stream(old, f"lab/{script.model}") as response:
            await response.content.readany()
            with service(folders[1], *options, "--port", str(old.port), config=config) as new:
                old.signal(signal.SIGTERM)

                async def left() -> bool:
                    return value(await scrape(new), "gateway_inflight_streams") == 0

                await until(left)
                for _ in range(20):
                    assert await left()
                    assert (await get(f"{admin_url(new)}/readyz")).status == 200
                gate.open()
                await response.read()
                assert await old.exit_status() == 0


# -- several workers -------------------------------------------------------------------------------------


@needs_proc
async def test_sums_of_all_workers_never_fall(tmp_path: Path) -> None:
    asked, seen, killed = 0, 0.0, 0

    async def all_there() -> bool:
        nonlocal seen
        now = value(await scrape(started), "gateway_requests_total")
        assert seen <= now <= asked
        seen = now
        return now == asked

    async def replaced() -> bool:
        assert await all_there()
        now = workers(started)
        return len(now) == 3 and killed not in now

    with service(tmp_path, "--workers", "3", config=ECHO) as started:
        for _ in range(2):
            assert await ask_often(started, 20, 4) == {"echo/one": 20}
            asked += 20
            await until(all_there)
            killed = workers(started)[0]
            os.kill(killed, signal.SIGKILL)
            await until(replaced)
        found = await scrape(started)
        assert value(found, "gen_ai_server_request_duration_seconds_count") == asked
        assert value(found, "gateway_upstream_attempts_total", outcome="ok") == asked


@needs_proc
async def test_what_a_dead_worker_had_under_way_is_over(upstream: FaultyUpstream, tmp_path: Path) -> None:
    script = upstream.script(held(upstream.gate()))  # type: ignore[arg-type]
    with service(tmp_path, "--workers", "2", config=ADMIN + CONFIG.format(url=upstream.url)) as started:

        async def under_way(count: int) -> bool:
            return value(await scrape(started), "gateway_inflight_streams") == count

        async with open_stream(started, f"lab/{script.model}") as response:
            await response.content.readany()
            await until(lambda: under_way(1))
            for pid in workers(started):
                os.kill(pid, signal.SIGKILL)
            await until(lambda: under_way(0))


@needs_proc
async def test_a_worker_that_leaves_counts_to_its_end(upstream: FaultyUpstream, tmp_path: Path) -> None:
    gate = upstream.gate()
    script = upstream.script(held(gate))  # type: ignore[arg-type]
    config = ADMIN + CONFIG.format(url=upstream.url)
    with service(tmp_path, "--workers", "2", config=config) as started:
        async with open_stream(started, f"lab/{script.model}") as response:
            await response.content.readany()
            old = workers(started)
            for pid in old:
                os.kill(pid, signal.SIGTERM)

            async def replaced() -> bool:
                now = workers(started)
                found = await scrape(started)
                listening = {name for name, _ in found if name == "process_open_fds"}
                return len(set(now) - set(old)) == 2 and bool(listening)

            async def counted() -> bool:
                """It says so once a second."""
                return value(await scrape(started), "gateway_inflight_streams") == 1

            await until(replaced)
            await until(counted)
            gate.open()
            await response.read()

        async def ended() -> bool:
            return not [pid for pid in old if alive(pid)]

        await until(ended)
        found = await scrape(started)
        assert value(found, "gateway_requests_total", outcome="ok") == 1
        assert value(found, "gateway_inflight_streams") == 0
