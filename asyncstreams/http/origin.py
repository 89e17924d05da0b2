"""Where may a request go: scheme, host and port, compared exactly, before any connection."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from ..errors import ConfigError, CrossOriginLink
from ..redaction import safe_url

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """RFC 6454: scheme, host (lower case) and port."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}")

    @property
    def is_loopback(self) -> bool:
        """Whether what goes there stays on this machine."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def origin_of(url: str) -> Origin:
    """The origin of an absolute http(s) URL. Raises ValueError for anything else, without showing it."""
    parts = _split(url)
    if parts is None:
        raise ValueError("its host or its port is malformed")
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError("an absolute http or https URL is needed")
    if "\\" in parts.netloc or any(char.isspace() or ord(char) < 32 or ord(char) == 127 for char in url):
        raise ValueError("white space, a control character or a backslash in the URL")
    return Origin(
        parts.scheme, parts.hostname.lower(), _DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
    )


def allowed_origins(owner: str, url_base: str, extra: Iterable[str]) -> frozenset[Origin]:
    """The origins that a stream may talk to: its own, and those it names. Raises ConfigError."""
    return frozenset([_declared(owner, "url_base", url_base), *(_declared(owner, "allowed_origins", x) for x in extra)])


def resolve(link: str, base: str, allowed: frozenset[Origin]) -> str:
    """The absolute URL of a link, relative ones resolved against `base` (RFC 3986).

    Raises CrossOriginLink, naming no query, when it leaves the allowed origins.
    """
    try:
        url = urljoin(base, link.strip())
    except ValueError:
        url = ""
    try:
        origin = origin_of(url)
    except ValueError as error:
        raise CrossOriginLink(f"links to something that is not fetched ({error}): {safe_url(link)!r}") from None
    if "@" in urlsplit(url).netloc:
        raise CrossOriginLink(f"links to a URL with user information in it, at {origin}: nothing was sent there")
    if origin not in allowed:
        raise CrossOriginLink(
            f"links to another origin, {origin}: nothing was sent there",
            hint=f'if the API really continues there, declare allowed_origins = ("{origin}",); '
            "the credential is then sent there too",
        )
    # What is written already stays; only what no request line may hold is encoded.
    return quote(url.partition("#")[0], safe="%/:=&?~+!$,;'@()*[]|\"<>{}^`\\")


def _split(url: str) -> SplitResult | None:
    """None where it cannot be split: the standard library's errors show what they could not read."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _declared(owner: str, attribute: str, url: str) -> Origin:
    if "@" in url:
        raise ConfigError(
            f"{owner}.{attribute} holds user information",
            hint="pass authenticator=BasicHttpAuthenticator(username, password) instead",
        )
    try:
        return origin_of(url)
    except ValueError as error:
        raise ConfigError(
            f"{owner}.{attribute} = {safe_url(url)!r}: {error}", hint='write it as "https://api.example.com/v1/"'
        ) from None
