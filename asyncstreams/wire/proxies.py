"""Proxies: their URLs, and those that the environment names."""

from __future__ import annotations

import ipaddress
import urllib.request
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from ..errors import ConfigError

_DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy. `authorization` is the value of the Proxy-Authorization header; None without a user name.

    `str()` shows neither user name nor password.
    """

    scheme: str
    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS instead of HTTP."""
        return self.scheme.startswith("socks")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_proxy(url: str, source: str) -> Proxy:
    """The proxy at a URL. Raises ConfigError, which names `source` and does not quote the URL."""
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        port, host, parts = None, None, urlsplit("")
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS or not host:
        raise ConfigError(
            f"{source}: not the URL of a proxy",
            hint="write it as http://user:password@host:port, with special characters of user and password "
            "percent-encoded; the schemes are http, https, socks5 and socks5h",
        )
    authorization = None
    if parts.username is not None or parts.password is not None:
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        authorization = f"Basic {b64encode(pair.encode()).decode('ascii')}"
    return Proxy(scheme, host, _DEFAULT_PORTS[scheme] if port is None else port, authorization)


def environment_proxy(scheme: str, host: str, port: int) -> str | None:
    """The URL of the proxy that the environment names for an origin; None for a direct connection.

    HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, in upper or lower case, and the system's settings on macOS and
    Windows, less the hosts of NO_PROXY. HTTP_PROXY is ignored where REQUEST_METHOD is set, since there a
    client of a CGI script could set it (CVE-2016-5385).
    """
    proxies = urllib.request.getproxies()
    url = proxies.get(scheme) or proxies.get("all")
    if not url or any(_excludes(entry.strip(), scheme, host, port) for entry in proxies.get("no", "").split(",")):
        return None
    return url if "://" in url else f"http://{url}"


def _excludes(entry: str, scheme: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY covers an origin.

    `*`; a host and its subdomains; with a leading dot its subdomains only; with a scheme this host and scheme
    only; an address, or a network such as 10.0.0.0/8; each with a port or without.
    """
    if not entry or entry == "*":
        return bool(entry)
    only_scheme, separator, rest = entry.lower().rpartition("://")
    name, only_port = _split_port(rest)
    if (separator and only_scheme not in (scheme, "all")) or only_port not in ("", str(port)):
        return False
    host = host.lower().rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        try:
            return address in ipaddress.ip_network(name, strict=False)
        except ValueError:
            return False
    if separator:
        return host == name
    domain = name.removeprefix("*").rstrip(".")
    if domain.startswith("."):
        return host.endswith(domain)
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _split_port(entry: str) -> tuple[str, str]:
    """Host and port of an entry; an IPv6 address has brackets if it has a port."""
    name, colon, port = entry.rpartition(":")
    if colon and port.isdigit() and (":" not in name or name.endswith("]")):
        return name.strip("[]"), port
    return entry.strip("[]"), ""
