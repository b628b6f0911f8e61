"""Whose requests are heard: Host and Origin, what a listed page is granted, and a reload."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from aiohttp.test_utils import make_mocked_request

from gateway.config import ServerSettings
from gateway.errors import PermissionDenied
from gateway.server.host_check import GRANT, HostCheck

LISTED = ServerSettings(
    allowed_hosts=("Gateway.lan", "host.docker.internal", "[fd00::1]", "odd.lan:8443"),
    allowed_origins=("https://tool.example", "http://localhost:3000"),
)
PAGE = "https://tool.example"

OURS = [
    "localhost", "localhost:4002", "LocalHost:1", "127.0.0.1", "127.0.0.1:4002", "127.0.0.1:65535", "[::1]",
    "[::1]:4002", "127.0.0.2:4002", "127.255.255.254",
]  # fmt: skip
NAMED = ["gateway.lan", "GATEWAY.LAN:4002", "host.docker.internal:4002", "[fd00::1]:80", "[fd00::1]", "odd.lan:8443"]
FOREIGN = [
    "", "evil.example", "evil.example:4002", "localhost.evil.example", "127.0.0.1.evil.example",
    "evil.example:127.0.0.1", "127.evil.example", "0.0.0.0:4002", "192.0.2.1:4002", "[::]:4002", "[fe80::1]", "::1",
    "localhost:4002:4002", "localhost:", "localhost:80a", "localhost@evil.example", "evil.example#localhost",
    "localhost,evil.example", "localhost evil.example", "xlocalhost", "localhos", ".localhost", "localhost.",
    "user@localhost:4002", "http://localhost", "[::1", "::1]", "*", "l\u043ecalhost", "localhost\u200b",
]  # fmt: skip
PAGES = [
    "https://evil.example", "null", "", "http://localhost", "http://localhost:4002", "http://127.0.0.1:4002",
    "https://tool.example.evil.example", "https://tool.example:444", "http://tool.example", "https://TOOL.example",
    "https://tool.example/", "https://tool.example, https://evil.example", "vscode-webview://x", "*",
]  # fmt: skip


def admit(check: HostCheck, settings: ServerSettings, headers: Mapping[str, str], method: str = "POST") -> object:
    return check.admit(make_mocked_request(method, "/v1/messages", headers=dict(headers)), settings)


@pytest.mark.parametrize("host", OURS)
def test_this_machine_is_served(host: str) -> None:
    check, settings = HostCheck(loopback=True), ServerSettings()
    for _ in range(2):
        assert admit(check, settings, {"host": host}) is None


@pytest.mark.parametrize("host", NAMED)
def test_a_listed_name_is_served_with_any_port(host: str) -> None:
    assert admit(HostCheck(loopback=True), LISTED, {"host": host}) is None
    with pytest.raises(PermissionDenied):
        admit(HostCheck(loopback=True), ServerSettings(), {"host": host})


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("settings", [ServerSettings(), LISTED], ids=["nothing listed", "listed"])
def test_another_name_is_refused_and_the_setting_named(host: str, settings: ServerSettings) -> None:
    check = HostCheck(loopback=True)
    for _ in range(2):
        with pytest.raises(PermissionDenied, match=r"server\.allowed_hosts") as refusal:
            admit(check, settings, {"host": host})
    assert refusal.value.status == 403
    assert refusal.value.should_retry is False
    assert refusal.value.message.isascii()
    assert refusal.value.message.isprintable()


def test_a_request_without_a_host_is_refused() -> None:
    with pytest.raises(PermissionDenied):
        admit(HostCheck(loopback=True), LISTED, {})


@pytest.mark.parametrize("host", ["evil.example", "gateway.corp", "192.0.2.1:4002", ""])
def test_on_the_network_the_name_does_not_matter(host: str) -> None:
    assert admit(HostCheck(loopback=False), ServerSettings(), {"host": host}) is None


@pytest.mark.parametrize("loopback", [True, False])
@pytest.mark.parametrize("origin", PAGES)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD"])
def test_a_page_that_is_not_listed_is_refused_everywhere(loopback: bool, origin: str, method: str) -> None:
    headers = {"host": "localhost", "origin": origin, "access-control-request-method": "POST"}
    for settings in (ServerSettings(), ServerSettings(allowed_origins=(PAGE,))):
        with pytest.raises(PermissionDenied, match=r"server\.allowed_origins") as refusal:
            admit(HostCheck(loopback=loopback), settings, headers, method)
        assert refusal.value.message.isprintable()


def test_a_long_name_is_cut() -> None:
    for header in ("host", "origin"):
        with pytest.raises(PermissionDenied) as refusal:
            admit(HostCheck(), LISTED, {"host": "localhost", header: "\x1b" * 10_000})
        assert len(refusal.value.message) < 700


def test_a_listed_page_may_read_the_answer() -> None:
    request = make_mocked_request("POST", "/v1/messages", headers={"host": "localhost", "origin": PAGE})
    assert HostCheck().admit(request, LISTED) is None
    assert request[GRANT] == {"access-control-allow-origin": PAGE, "vary": "origin"}


def test_who_is_no_page_is_granted_nothing() -> None:
    request = make_mocked_request("POST", "/v1/messages", headers={"host": "localhost"})
    assert HostCheck().admit(request, LISTED) is None
    assert GRANT not in request


def test_a_listed_page_still_needs_one_of_our_names() -> None:
    with pytest.raises(PermissionDenied, match="allowed_hosts"):
        admit(HostCheck(loopback=True), LISTED, {"host": "evil.example", "origin": PAGE})


def test_a_preflight_of_a_listed_page() -> None:
    headers = {
        "host": "localhost:4002",
        "origin": PAGE,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type, x-api-key",
    }
    answer = HostCheck().admit(make_mocked_request("OPTIONS", "/v1/messages", headers=headers), LISTED)
    assert answer is not None
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-methods"] == "GET, POST"
    assert answer.headers["access-control-allow-headers"] == "content-type, x-api-key"
    assert "access-control-allow-credentials" not in answer.headers
    assert answer.headers["vary"] == "origin"


def test_options_without_a_question_is_no_preflight() -> None:
    assert admit(HostCheck(), LISTED, {"host": "localhost", "origin": PAGE}, "OPTIONS") is None


def test_a_reload_counts_at_once() -> None:
    check = HostCheck(loopback=True)
    by_name, by_page = {"host": "gateway.lan"}, {"host": "localhost", "origin": PAGE}
    for headers in (by_name, by_page):
        for settings, heard in ((ServerSettings(), False), (LISTED, True), (ServerSettings(), False), (LISTED, True)):
            if heard:
                assert admit(check, settings, headers) is None
            else:
                with pytest.raises(PermissionDenied):
                    admit(check, settings, headers)


def test_what_is_remembered_is_bounded() -> None:
    check, settings = HostCheck(loopback=True), ServerSettings()
    for port in range(1000):
        assert admit(check, settings, {"host": f"localhost:{port}"}) is None
    assert len(check._known) <= 64
