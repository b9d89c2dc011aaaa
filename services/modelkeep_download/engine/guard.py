"""The address guard: which addresses may be asked, before the connection and after it.

Without `allow_private_addresses` only global unicast addresses pass. The check is made on what a name
resolves to, on every redirect, and on the address of the connected peer before the first byte is
sent, so that a name that changes its answer in between (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from modelkeep.exceptions import ForbiddenAddressException

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_BAD_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24"),
        *("192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        *("224.0.0.0/4", "240.0.0.0/4"),
    )
)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_BAD_V6 = tuple(
    ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2620:4f:8000::/48", "3fff::/20")
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")


class AddressGuard:
    """Decides which addresses may be asked."""

    def __init__(self, *, allow_private: bool = False) -> None:
        self.allow_private = allow_private

    def check(self, address: str, *, host: str) -> None:
        """Raise ForbiddenAddressException unless the numeric address may be asked for this host."""
        if not self.allows(address):
            raise ForbiddenAddressException(
                f"{host} leads to {address}, which is no public address; "
                "only a service with allow_private_addresses asks such hosts",
                metadata={"host": host, "address": address, "setting": "allow_private_addresses"},
            )

    def allows(self, address: str) -> bool:
        """Whether a numeric address (an IPv6 zone is ignored) may be asked."""
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if self.allow_private:
            mapped = getattr(parsed, "ipv4_mapped", None) or parsed
            return not (mapped.is_multicast or mapped.is_unspecified)
        return is_public(parsed)


def check_number(guard: AddressGuard, host: str) -> None:
    """Refuse a host that is a number which may not be asked; a name is somebody else's to look up.

    Raises:
        ForbiddenAddressException: It is one.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return
    guard.check(host, host=host)


def is_public(address: Address) -> bool:
    """Whether an address, and every IPv4 address packed in it, is global unicast."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _BAD_V4)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return all(is_public(v4) for v4 in _packed(address))
    if address not in _GLOBAL_V6 or any(address in network for network in _BAD_V6):
        return False
    return all(is_public(v4) for v4 in _packed(address))


def _packed(address: ipaddress.IPv6Address) -> Iterator[ipaddress.IPv4Address]:
    """IPv4 addresses that transition mechanisms hide in an IPv6 address (NAT64, 6to4, ISATAP)."""
    raw = address.packed
    if address in _NAT64:
        yield ipaddress.IPv4Address(raw[12:])
    if address in _SIX_TO_FOUR:
        yield ipaddress.IPv4Address(raw[2:6])
    if raw[8:12] in (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe"):
        yield ipaddress.IPv4Address(raw[12:])
