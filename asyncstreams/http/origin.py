"""Origins of URLs, and the check that a request goes to an allowed origin."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from ..errors import ConfigError, CrossOriginLink
from ..redaction import safe_url

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """Scheme, host (lower case) and port of a URL (RFC 6454), compared exactly."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}")

    @property
    def is_loopback(self) -> bool:
        """Whether requests to this origin stay on the local machine."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def origin_of(url: str) -> Origin:
    """The origin of an absolute http(s) URL. Raises ValueError for any other text, and does not quote it."""
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


def allowed_origins(class_name: str, url_base: str, extra: Iterable[str]) -> frozenset[Origin]:
    """The origins that a stream may send requests to: that of `url_base`, and `extra`. Raises ConfigError."""
    return frozenset(
        [
            _declared_origin(class_name, "url_base", url_base),
            *(_declared_origin(class_name, "allowed_origins", x) for x in extra),
        ]
    )


def resolve(link: str, base: str, allowed: frozenset[Origin]) -> str:
    """The absolute URL of a link; a relative one is resolved against `base` (RFC 3986).

    Raises CrossOriginLink, whose text contains no query, if the URL leaves the allowed origins.
    """
    try:
        url = urljoin(base, link.strip())
    except ValueError:
        url = ""
    try:
        origin = origin_of(url)
    except ValueError as error:
        raise CrossOriginLink(f"links to a URL that cannot be requested ({error}): {safe_url(link)!r}") from None
    if "@" in urlsplit(url).netloc:
        raise CrossOriginLink(f"links to a URL with user information, at {origin}: nothing was sent there")
    if origin not in allowed:
        raise CrossOriginLink(
            f"links to another origin, {origin}: nothing was sent there",
            hint=f'if the API continues there, declare allowed_origins = ("{origin}",); '
            "the credential is then also sent there",
        )
    # Existing escapes stay; only characters that a request line may not contain are encoded.
    return quote(url.partition("#")[0], safe="%/:=&?~+!$,;'@()*[]|\"<>{}^`\\")


def _split(url: str) -> SplitResult | None:
    """The parts of a URL, or None if it is malformed. The standard library's errors would quote the URL."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _declared_origin(class_name: str, attribute: str, url: str) -> Origin:
    if "@" in url:
        raise ConfigError(
            f"{class_name}.{attribute} contains user information",
            hint="pass authenticator=BasicHttpAuthenticator(username, password) instead",
        )
    try:
        return origin_of(url)
    except ValueError as error:
        raise ConfigError(
            f"{class_name}.{attribute} = {safe_url(url)!r}: {error}", hint='write it as "https://api.example.com/v1/"'
        ) from None
