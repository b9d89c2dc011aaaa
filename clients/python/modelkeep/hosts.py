"""Addresses to listen on: their one spelling, who reaches them, and by which host."""

from __future__ import annotations

import ipaddress
import socket


def check_spelling(host: str) -> None:
    """Refuse short and odd spellings of IPv4 addresses: programs do not agree on what they mean.

    Raises:
        ValueError: ``127.1``, ``0x7f000001``, ``127.0.0.01``; the text names the usual spelling.
    """
    plain = host.strip("[]")
    try:
        usual = socket.inet_ntoa(socket.inet_aton(plain))
    except (OSError, UnicodeError, ValueError):
        return  # IPv6, or a name
    if usual != plain:
        raise ValueError(f"host {host.strip()} is an unusual spelling of {usual}: write {usual}")


def is_loopback(host: str) -> bool:
    """Whether all addresses of a host are this machine's own; asks the resolver for a name, and blocks.

    Raises:
        OSError: The name is unknown.
    """
    plain = host.strip("[]")
    try:
        return ipaddress.ip_address(plain).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(plain, None, type=socket.SOCK_STREAM)
    except (UnicodeError, ValueError) as error:
        raise OSError(f"{host!r} is no name of a host") from error
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)


def dial_host(host: str) -> str:
    """The host by which clients on this machine reach a server that listens on ``host``."""
    if host in ("0.0.0.0", "[::]", "::"):
        return "127.0.0.1"
    return bracketed(host)


def bracketed(host: str) -> str:
    """A host as it stands before a port: an address of IPv6 in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
