"""Origins of URLs, the rules for links between them, and URLs as they are sent."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Iterable
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import httpx

from ..errors import ConfigError, CrossOriginLink
from ..redaction import safe_url

_DEFAULT_PORTS = {"http": 80, "https": 443}
# Existing escapes stay; only characters that a request line may not contain are encoded.
_SAFE = "%/:=&?~+!$,;'@()*[]|\"<>{}^`\\"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NUMERIC_HOST = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}")
_MIN_PATTERN_LABELS = 2  # of a domain whose subdomains are allowed: "*.com" would allow nearly all hosts


class Origin(NamedTuple):
    """Scheme, host and port of a URL (RFC 6454). The host is in lower case, and Unicode is in punycode."""

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

    @property
    def is_private(self) -> bool:
        """Whether the host is this machine, or an address that is not public; a name is not looked up."""
        host = self.host.rstrip(".")
        if host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            # The resolver also accepts 127.1, 0x7f000001 and 2130706433.
            address = socket.inet_ntoa(socket.inet_aton(host)) if _NUMERIC_HOST.fullmatch(host) else host
            return is_private_address(address)
        except (OSError, ValueError):
            return False


class OriginPattern(NamedTuple):
    """An origin, or all origins whose host ends with `suffix`, such as ".s3.amazonaws.com"."""

    origin: Origin
    suffix: str | None = None

    def matches(self, origin: Origin) -> bool:
        """Whether the origin is this one, or one of a subdomain."""
        if self.suffix is None:
            return origin == self.origin
        is_subdomain = origin.host.endswith(self.suffix) and not origin.host.startswith(".")
        return is_subdomain and (origin.scheme, origin.port) == (self.origin.scheme, self.origin.port)


def is_private_address(address: str) -> bool:
    """Whether an IP address is not public: loopback, private, link-local or reserved. Raises ValueError."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or ip
    return not ip.is_global


def origin_of(url: str) -> Origin:
    """The origin of an absolute http(s) URL. Raises ValueError for any other text, and does not quote it."""
    parts = _split(url)
    if parts is None:
        raise ValueError("its host or its port is malformed")
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError("an absolute http or https URL is needed")
    if "\\" in parts.netloc or _CONTROL.search(url) or any(char.isspace() for char in url):
        raise ValueError("white space, a control character or a backslash in the URL")
    port = _DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
    return Origin(parts.scheme, _ascii_host(parts.hostname), port)


def canonical_url(url: str) -> str:
    """A URL in the characters of a request line, with its origin in canonical form. Raises ValueError."""
    origin = origin_of(url)
    return f"{origin}{_encode(_tail(url))}"


def allowed_origins(class_name: str, url_base: str, extra: Iterable[str]) -> frozenset[Origin]:
    """The origins that receive a stream's credential: that of `url_base`, and `extra`. Raises ConfigError."""
    return frozenset(
        [
            _declared_origin(class_name, "url_base", url_base),
            *(_declared_origin(class_name, "allowed_origins", x) for x in extra),
        ]
    )


def uncredentialed_origins(
    class_name: str, declared: Iterable[str], allowed: frozenset[Origin]
) -> tuple[OriginPattern, ...]:
    """The origins that a stream may request without its credential. Raises ConfigError.

    `https://*.example.com` stands for all subdomains of example.com, at any depth.
    """
    patterns: list[OriginPattern] = []
    for url in declared:
        scheme, mark, rest = url.partition("://*.")
        origin = _declared_origin(class_name, "uncredentialed_origins", f"{scheme}://{rest}" if mark else url)
        if mark and origin.host.count(".") < _MIN_PATTERN_LABELS - 1:
            raise ConfigError(
                f"{class_name}.uncredentialed_origins: {url!r} allows too many hosts",
                hint='name a domain with a dot in it, such as "https://*.s3.amazonaws.com"',
            )
        if "*" in origin.host:
            raise ConfigError(
                f"{class_name}.uncredentialed_origins: {safe_url(url)!r} has a * that is not its first label",
                hint='write it as "https://*.s3.amazonaws.com"',
            )
        if not mark and origin in allowed:
            raise ConfigError(
                f"{class_name}.uncredentialed_origins: {origin} is also the origin of url_base or in allowed_origins",
                hint="remove it from one of them: allowed_origins receive the credential",
            )
        patterns.append(OriginPattern(origin, f".{origin.host}" if mark else None))
    return tuple(patterns)


def resolve(link: str, base: str, allowed: frozenset[Origin], uncredentialed: Collection[OriginPattern] = ()) -> str:
    """The absolute URL of a link; a relative one is resolved against `base` (RFC 3986).

    Spaces and characters outside ASCII are percent-encoded. A link that says http for an allowed https origin on
    its default port is followed over https.

    Raises CrossOriginLink, whose text contains no query, if the URL leaves the allowed origins.
    """
    try:
        url, origin = absolute_url(link, base)
    except ValueError as error:
        raise CrossOriginLink(f"links to a URL that cannot be requested ({error}): {safe_url(link)!r}") from None
    if origin in allowed:
        return url
    if (secure := secure_url(url, origin, allowed)) is not None:
        return secure
    if any(pattern.matches(origin) for pattern in uncredentialed):
        return url
    raise cross_origin_error(origin)


def cross_origin_error(origin: Origin) -> CrossOriginLink:
    """The error for a URL of an origin that the stream does not declare."""
    return CrossOriginLink(
        f"links to another origin, {origin}: nothing was sent there",
        hint=f'if the API continues there, declare allowed_origins = ("{origin}",); the credential is then also sent '
        f'there. For links that need no credential, declare uncredentialed_origins = ("{origin}",)',
    )


def absolute_url(link: str, base: str) -> tuple[str, Origin]:
    """The URL of a link without its fragment, in the characters of a request line, and its origin.

    Raises ValueError with the reason, which does not quote the link.
    """
    try:
        url = urljoin(base, link.strip()).partition("#")[0]
    except ValueError:
        raise ValueError("its host or its port is malformed") from None
    if _CONTROL.search(url):
        raise ValueError("a control character in the URL")
    parts = _split(url)
    if parts is None or parts.scheme not in _DEFAULT_PORTS or not parts.netloc:
        raise ValueError("its host or its port is malformed" if parts is None else "an http or https URL is needed")
    authority = f"{parts.scheme}://{parts.netloc}"
    origin = origin_of(authority)
    if "@" in parts.netloc:
        raise ValueError(f"it contains user information, at {origin}")
    return f"{authority if authority.isascii() else origin}{_encode(_tail(url))}", origin


def secure_url(url: str, origin: Origin, allowed: Collection[Origin]) -> str | None:
    """The https form of a URL that says http for an allowed https origin on its default port; otherwise None.

    Servers behind a proxy that ends TLS write such links.
    """
    secure = Origin("https", origin.host, _DEFAULT_PORTS["https"])
    if origin.scheme != "http" or origin.port not in _DEFAULT_PORTS.values() or secure not in allowed:
        return None
    return f"{secure}{_tail(url)}"


def _tail(url: str) -> str:
    """Path and query of an absolute URL, as they are written."""
    authority = url.index("://") + 3
    ends = [position for mark in "/?#" if (position := url.find(mark, authority)) >= 0]
    return url[min(ends) :] if ends else ""


def _encode(tail: str) -> str:
    try:
        # Bytes of a header that are not UTF-8 are escaped as they are.
        return quote(tail, safe=_SAFE, errors="surrogateescape")
    except UnicodeEncodeError:
        raise ValueError("it is not valid Unicode: it contains a lone surrogate") from None


def _ascii_host(host: str) -> str:
    """A host in lower case and in punycode, as the transport requests it (IDNA 2008). Raises ValueError."""
    if ":" in host:
        return ipaddress.ip_address(host).compressed
    if host.isascii():
        return host.lower()
    try:
        return httpx.URL(f"http://{host}/").raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError):
        raise ValueError("its host is not a valid name") from None


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
