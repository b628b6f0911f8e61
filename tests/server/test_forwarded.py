"""Whose address a request is logged under."""

from __future__ import annotations

import pytest

from gateway.server.forwarded import MAX_HOPS, TrustedProxies

LOCAL = ("127.0.0.1", "::1")
NETWORKS = ("10.0.0.0/8", "fd00::/8", "192.0.2.7")

# The peer, the values of x-forwarded-for, the trusted, and the client.
CASES: dict[str, tuple[str, list[str], tuple[str, ...], str]] = {
    "nobody is trusted": ("127.0.0.1", ["203.0.113.9"], (), "127.0.0.1"),
    "nothing is said": ("127.0.0.1", [], LOCAL, "127.0.0.1"),
    "an empty value": ("127.0.0.1", [""], LOCAL, "127.0.0.1"),
    "a stranger's claim": ("198.51.100.1", ["203.0.113.9"], LOCAL, "198.51.100.1"),
    "one proxy": ("127.0.0.1", ["203.0.113.9"], LOCAL, "203.0.113.9"),
    "one proxy, IPv6": ("::1", ["2001:db8::9"], LOCAL, "2001:db8::9"),
    "what the client forged": ("127.0.0.1", ["6.6.6.6, 203.0.113.9"], LOCAL, "203.0.113.9"),
    "forged as a trusted one": ("127.0.0.1", ["10.0.0.1, 203.0.113.9"], (*LOCAL, *NETWORKS), "203.0.113.9"),
    "two proxies": ("10.1.2.3", ["203.0.113.9, 192.0.2.7"], NETWORKS, "203.0.113.9"),
    "two header lines": ("10.1.2.3", ["6.6.6.6, 203.0.113.9", "192.0.2.7"], NETWORKS, "203.0.113.9"),
    "trusted ones only": ("10.1.2.3", ["10.0.0.5, 10.0.0.6"], NETWORKS, "10.0.0.5"),
    "a network of IPv6": ("fd12::1", ["2001:db8::9"], NETWORKS, "2001:db8::9"),
    "with a port": ("127.0.0.1", ["203.0.113.9:51234"], LOCAL, "203.0.113.9"),
    "IPv6 with a port": ("127.0.0.1", ["[2001:db8::9]:51234"], LOCAL, "2001:db8::9"),
    "IPv6 in brackets": ("127.0.0.1", ["[2001:db8::9]"], LOCAL, "2001:db8::9"),
    "blanks": ("127.0.0.1", ["  203.0.113.9 \t"], LOCAL, "203.0.113.9"),
    "a peer in IPv6 clothes": ("::ffff:127.0.0.1", ["203.0.113.9"], LOCAL, "203.0.113.9"),
    "a hop in IPv6 clothes": ("127.0.0.1", ["203.0.113.9, ::ffff:10.0.0.1"], (*LOCAL, *NETWORKS), "203.0.113.9"),
    "a network with host bits": ("10.0.0.9", ["203.0.113.9"], ("10.0.0.1/24",), "203.0.113.9"),
    "no address": ("127.0.0.1", ["203.0.113.9, unknown"], LOCAL, "127.0.0.1"),
    "no address behind a proxy": ("10.1.2.3", ["evil, 192.0.2.7"], NETWORKS, "192.0.2.7"),
    "a forged line": ("127.0.0.1", ["203.0.113.9\x1b[2J"], LOCAL, "127.0.0.1"),
    "words": ("127.0.0.1", ["for=203.0.113.9;proto=https"], LOCAL, "127.0.0.1"),
    "a zone": ("127.0.0.1", ["fe80::1%\u202eeth0"], LOCAL, "fe80::1"),
    "an empty entry": ("127.0.0.1", ["203.0.113.9,,"], LOCAL, "127.0.0.1"),
    "a peer without an address": ("", ["203.0.113.9"], LOCAL, ""),
}


@pytest.mark.parametrize(("peer", "forwarded", "trusted", "client"), CASES.values(), ids=CASES)
def test_the_rightmost_that_is_not_trusted(
    peer: str, forwarded: list[str], trusted: tuple[str, ...], client: str
) -> None:
    assert TrustedProxies().client(peer, forwarded, trusted) == client


def test_the_search_is_bounded() -> None:
    hops = ", ".join(["203.0.113.9", *["10.0.0.1"] * 10_000])
    assert TrustedProxies().client("10.0.0.2", [hops], NETWORKS) == "10.0.0.1"
    near = ", ".join(["203.0.113.9", *["10.0.0.1"] * (MAX_HOPS - 1)])
    assert TrustedProxies().client("10.0.0.2", [near], NETWORKS) == "203.0.113.9"


def test_it_follows_a_reload() -> None:
    proxies = TrustedProxies()
    for trusted, client in ((LOCAL, "203.0.113.9"), ((), "127.0.0.1"), (NETWORKS, "127.0.0.1"), (LOCAL, "203.0.113.9")):
        assert proxies.client("127.0.0.1", ["203.0.113.9"], trusted) == client


def test_what_is_no_network_is_an_error() -> None:
    with pytest.raises(ValueError, match="proxy"):
        TrustedProxies().client("127.0.0.1", ["203.0.113.9"], ("proxy.lan",))
