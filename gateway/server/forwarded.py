"""Where a request came from: the peer, or what a trusted proxy says of it.

Rules:
* For the log, never for access: a header is a claim.
* ``x-forwarded-for`` counts only from a peer in ``server.trusted_proxies``. It is read from the right, where the
  nearest proxy wrote, to the first address that is not trusted: what stands further left anybody may have written.
* What is no address ends the search; nothing but an address is ever returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

MAX_HOPS = 32
"""How many entries are read; more proxies than that are a loop."""

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network


class TrustedProxies:
    """One per process. It follows the list that it is asked with."""

    def __init__(self) -> None:
        self._trusted: tuple[str, ...] = ()
        self._networks: tuple[_Network, ...] = ()

    def client(self, peer: str, forwarded: Sequence[str], trusted: tuple[str, ...]) -> str:
        """The client's address. ``forwarded``: the values of ``x-forwarded-for``, in order; ``peer`` is returned as
        it is where that does not count. Raises ValueError for a ``trusted`` that is neither address nor network.
        """
        if not trusted or not forwarded:
            return peer
        if trusted is not self._trusted:
            self._networks = tuple(ip_network(each, strict=False) for each in trusted)
            self._trusted = trusted
        nearest = _address(peer)
        if nearest is None or not self._trusts(nearest):
            return peer
        for entry in reversed(",".join(forwarded).split(",")[-MAX_HOPS:]):
            address = _address(entry.strip())
            if address is None:
                break
            nearest = address
            if not self._trusts(nearest):
                break
        return str(nearest)

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)


def _address(text: str) -> _Address | None:
    """Of ``192.0.2.1``, ``192.0.2.1:443``, ``2001:db8::1``, ``[2001:db8::1]:443`` or ``::ffff:192.0.2.1``."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        # A zone may be any text.
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or address
    return address
