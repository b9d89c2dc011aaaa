"""Forward proxies: which one an address is asked through, and what it means when one refuses.

A proxy looks up names and connects, so it is the guard of names in place of the service. Of its credentials
nothing is ever shown.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from modelkeep.exceptions import (
    FieldInvalidException,
    ForbiddenAddressException,
    UpstreamUnavailableException,
)
from modelkeep_common.urls import Origin, origin_of, parse_url, request_target
from modelkeep_download.domain.retry import TransientError, is_transient
from modelkeep_download.engine.http1 import basic

#: The value of the setting that has the variables of the environment honoured.
ENVIRONMENT = "environment"
#: Variables that name a proxy.
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_EXAMPLE = "http://proxy.example:3128, or http://user:password@proxy.example:3128"
#: Tries that it is worth if a proxy does not reach a source that has never answered.
_FEW_TRIES = 3


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that speaks HTTP.

    Attributes:
        setting: What names it: the setting, or a variable of the environment.
        userinfo: User and password that it is shown; may be empty.
    """

    host: str
    port: int
    setting: str
    userinfo: str = field(default="", repr=False)

    @property
    def shown(self) -> str:
        """Host and port, for people."""
        return _authority(self.host, self.port)

    @property
    def headers(self) -> Mapping[str, str]:
        """What goes to it with each request, and to nobody else."""
        return {"Proxy-Authorization": basic(self.userinfo)} if self.userinfo else {}

    def wish(self, origin: Origin, user_agent: str) -> bytes:
        """The request for a tunnel."""
        authority = _authority(origin.host, origin.port)
        fields = {"Host": authority, "User-Agent": user_agent, **self.headers}
        lines = [f"CONNECT {authority} HTTP/1.1", *(f"{name}: {text}" for name, text in fields.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")

    def unreached(self, why: str, tries: int | None) -> TransientError:
        """The error for a proxy that does not answer."""
        return TransientError(
            f"the proxy {self.shown} cannot be used: {why}",
            tries=tries,
            metadata={"proxy": self.shown, "remedy": f"Start the proxy, or correct {self.setting}."},
        )

    def failed(self, host: str, why: str, tries: int | None) -> TransientError:
        """The error for an exchange with a host through it that broke off; either may have done that."""
        return TransientError(
            f"{host} does not answer as it should through the proxy {self.shown}: {why}",
            tries=tries,
            metadata={"proxy": self.shown},
        )

    def refused(self, status: int, host: str) -> Exception:
        """The error for a wish that it answers so."""
        if status in (401, 407):  # 401 is what tinyproxy says of a wrong password
            has = "refuses the user and password that it is shown" if self.userinfo else "wants a user"
            return UpstreamUnavailableException(
                f"the proxy {self.shown} {has}: it answers {status}.",
                metadata={"peer": self.shown, "proxy": self.shown},
                remedy=f"Give the proxy's user and password in {self.setting}: http://user:password@host:port.",
            )
        if is_transient(status):
            return TransientError(
                f"the proxy {self.shown} does not reach {host}: it answers {status}",
                tries=_FEW_TRIES,
                metadata={
                    "proxy": self.shown,
                    "remedy": "Check the address, and that its host can be reached from the proxy.",
                },
            )
        return ForbiddenAddressException(
            f"the proxy {self.shown} does not let this service through to {host}: it answers {status}.",
            metadata={"host": host, "address": host, "setting": self.setting},
            remedy="Have the proxy allow it, or name the host in no_proxy to connect without the proxy.",
        )


@dataclass(frozen=True, slots=True)
class Proxies:
    """Which proxy serves which address; none by default."""

    http: Proxy | None = None
    https: Proxy | None = None
    passed_over: tuple[str, ...] = ()

    def of(self, origin: Origin) -> Proxy | None:
        """The proxy that the address is asked through, if any."""
        proxy = self.https if origin.scheme == "https" else self.http
        if proxy is None or any(_means(entry, origin) for entry in self.passed_over):
            return None
        return proxy

    def __bool__(self) -> bool:
        return self.http is not None or self.https is not None

    @property
    def secrets(self) -> Collection[str]:
        """What no text that a stranger writes may show."""
        shown = {proxy.userinfo for proxy in (self.http, self.https) if proxy and proxy.userinfo}
        passwords = (userinfo.partition(":")[2] for userinfo in shown)
        return [*shown, *filter(None, passwords), *(basic(userinfo).split()[1] for userinfo in shown)]


#: Every address is asked directly.
NO_PROXIES = Proxies()


def proxies_of(proxy: str, no_proxy: Sequence[str], environment: Mapping[str, str]) -> Proxies:
    """The proxies that settings name; see `DownloadSettings`.

    Raises:
        ValueError: An address that cannot be one of a proxy; its text shows nothing of it.
    """
    if not proxy:
        return NO_PROXIES
    if proxy != ENVIRONMENT:
        one = parse_proxy(proxy, "proxy")
        return Proxies(one, one, tuple(no_proxy))
    named = {name: environment.get(name.lower()) or environment.get(name, "") for name in VARIABLES}
    found = {
        name: parse_proxy(text if "://" in text else f"http://{text}", name)
        for name, text in named.items()
        if text
    }
    listed = environment.get("no_proxy") or environment.get("NO_PROXY", "")
    entries = [*no_proxy, *listed.replace(",", " ").split()]
    rest = found.get("ALL_PROXY")
    return Proxies(found.get("HTTP_PROXY", rest), found.get("HTTPS_PROXY", rest), tuple(entries))


def parse_proxy(text: str, setting: str) -> Proxy:
    """A proxy by its address.

    Raises:
        ValueError: It is none that can be used; the text shows nothing of it.
    """
    wrong = (
        f"{setting} must be the address of a proxy that speaks http, without TLS or SOCKS, like {_EXAMPLE}"
    )
    try:
        parsed = parse_url(text, setting)
    except FieldInvalidException:
        raise ValueError(wrong) from None
    scheme, host, port = origin_of(parsed.url)
    if scheme != "http" or request_target(parsed.url) != "/":
        raise ValueError(wrong)
    return Proxy(host, port, setting, parsed.userinfo)


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _means(entry: str, origin: Origin) -> bool:
    """Whether an entry of no_proxy means the host: `*`, a name with all below it, an address, a network."""
    entry = entry.strip().lower()
    if entry == "*":
        return True
    if "/" not in entry and (entry.startswith("[") or entry.count(":") == 1):
        entry, _, port = entry.rpartition(":") if not entry.endswith("]") else (entry, "", "")
        if port and port != str(origin.port):
            return False
        entry = entry.strip("[]")
    try:
        address = ipaddress.ip_address(origin.host)
    except ValueError:
        name = entry.removeprefix("*").lstrip(".")
        return bool(name) and (origin.host == name or origin.host.endswith(f".{name}"))
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
