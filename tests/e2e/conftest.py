"""Fixtures: one upstream and one gateway for all tests, a fresh client for each test and version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.claude_code import ClaudeCode, binary_of
from tests.e2e.processes import GatewayProcess, UpstreamThread, server_faults
from tests.fakes.openai_upstream import ScriptedUpstream

FOLDER = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(FOLDER) and "gateway" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def upstream_thread() -> Iterator[UpstreamThread]:
    with UpstreamThread() as thread:
        yield thread


@pytest.fixture(scope="session")
def gateway(upstream_thread: UpstreamThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), upstream_thread.url) as process:
        yield process


@pytest.fixture
def upstream(upstream_thread: UpstreamThread, gateway: GatewayProcess) -> Iterator[ScriptedUpstream]:
    """The scripted upstream; afterwards nothing may have been refused, unscripted or broken."""
    upstream = upstream_thread.upstream
    upstream.reset()
    start = len(gateway.log_file.read_bytes())
    yield upstream
    assert upstream.violations == [], "\n".join(upstream.violations)
    assert [(seen.scenario, seen.step) for seen in upstream.seen if seen.kind == "unknown"] == []
    assert server_faults(gateway.log(start)) == []


@pytest.fixture
def claude_of(gateway: GatewayProcess, upstream: ScriptedUpstream, tmp_path: Path) -> Callable[[str], ClaudeCode]:
    """Makes the client of one version, ``new`` or ``old``; skips the test where it is not installed."""

    def make(name: str) -> ClaudeCode:
        binary = binary_of(name)
        if binary is None:
            pytest.skip(f"no Claude Code ({name}): run tests/e2e/install.sh or set GATEWAY_E2E_CLAUDE_{name.upper()}")
        return ClaudeCode(name, binary, tmp_path, gateway.url)

    return make


@pytest.fixture(params=["new", "old"])
def claude(request: pytest.FixtureRequest, claude_of: Callable[[str], ClaudeCode]) -> ClaudeCode:
    return claude_of(request.param)


@pytest.fixture
def picture() -> bytes:
    """A PNG of one red pixel."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\x00\xff\x00\x00")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture
def pdf() -> bytes:
    """A PDF of one empty page."""
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 72 72]>>",
    ]
    out = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    start = len(out)
    size = len(objects) + 1
    out += b"xref\n0 %d\n0000000000 65535 f \n%s" % (size, table)
    return out + b"trailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (size, start)
