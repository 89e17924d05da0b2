"""Cookies per origin and credential, in memory (RFC 6265)."""

from __future__ import annotations

import calendar
import functools
import logging
import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from .origin import Origin

_log = logging.getLogger("asyncstreams")
_MAX_COOKIES = 50
_MAX_COOKIE_BYTES = 4096  # of name and value
_MAX_ATTRIBUTE_CHARS = 1024
_SENDABLE = re.compile(r"[\x20-\x3a\x3c-\x7e]*")
_DATE_DELIMITERS = re.compile(r"[\x09\x20-\x2f\x3b-\x40\x5b-\x60\x7b-\x7e]+")
_TIME = re.compile(r"(\d{1,2}):(\d{1,2}):(\d{1,2})(?:\D.*)?", re.DOTALL)
_DAY = re.compile(r"(\d{1,2})(?:\D.*)?", re.DOTALL)
_YEAR = re.compile(r"(\d{2,4})(?:\D.*)?", re.DOTALL)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_EXPIRED = float("-inf")


class Cookie(NamedTuple):
    """A kept cookie. `expires` is in seconds since 1970; None: until the session ends."""

    value: str
    expires: float | None

    def __repr__(self) -> str:
        return "Cookie(***)"


class CookieJar:
    """The cookies that one origin set for one credential: at most 50, each of at most 4 KiB.

    All are host-only: a Domain attribute that includes the host does not make subdomains receive the cookie.
    """

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        # By path and name. The order is that of creation; an update keeps it (RFC 6265, 5.3).
        self._cookies: dict[tuple[str, str], Cookie] = {}
        self._has_warned = False

    def __len__(self) -> int:
        return len(self._cookies)

    def __repr__(self) -> str:
        return f"CookieJar({self._origin}, {len(self)} cookies)"

    def store(self, headers: Iterable[bytes], url: str, now: float) -> None:
        """Keep the cookies of the Set-Cookie headers of a response to `url`, or delete them if they have expired.

        `now` is in seconds since 1970. A cookie that cannot be kept is left out, and the first one is logged.
        """
        for header in headers:
            problem = self._store_one(header.decode("latin-1"), url, now)
            if problem is not None and not self._has_warned:
                self._has_warned = True
                _log.warning("%s: a cookie is not kept: %s", self._origin, problem)

    def header(self, url: str, now: float, given: str = "") -> str:
        """The value of the Cookie header of a request to `url`; empty if there are no cookies.

        `given` is the Cookie header that the request already has. It comes first, and a kept cookie of a name that
        it contains is not sent.
        """
        path = _path_of(url)
        self._remove_expired(now)
        names = {part.partition("=")[0].strip() for part in given.split(";")} if given else ()
        matching = [
            (cookie_path, f"{name}={cookie.value}" if name else cookie.value)
            for (cookie_path, name), cookie in self._cookies.items()
            if name not in names and _path_matches(path, cookie_path)
        ]
        matching.sort(key=lambda pair: -len(pair[0]))  # the more specific path first; stable
        return "; ".join(([given] if given else []) + [pair for _, pair in matching])

    def _store_one(self, header: str, url: str, now: float) -> str | None:
        """Keep or delete one cookie. Returns the reason if it is left out, without name and value."""
        pair, *attributes = header.split(";")
        name, mark, value = pair.partition("=")
        if not mark:  # as browsers read it (draft-ietf-httpbis-rfc6265bis, 5.6)
            name, value = "", name
        name, value = name.strip(" \t"), value.strip(" \t")
        if not name and not value:
            return "it has neither name nor value"
        if not _SENDABLE.fullmatch(name + value):
            return "it contains a control character or a character outside ASCII"
        if len(name) + len(value) > _MAX_COOKIE_BYTES:
            return f"it is longer than {_MAX_COOKIE_BYTES:,} bytes"
        path, expires, max_age = _default_path(url), None, None
        for attribute in attributes:
            key, _, text = attribute.partition("=")
            key, text = key.strip(" \t").lower(), text.strip(" \t")
            if len(text) > _MAX_ATTRIBUTE_CHARS:
                continue
            if key == "path":
                path = text if text.startswith("/") else _default_path(url)
            elif key == "max-age" and re.fullmatch(r"-?[0-9]+", text):
                max_age = _EXPIRED if text.startswith("-") or not text.strip("0") else now + float(text)
            elif key == "expires" and (parsed := parse_cookie_date(text)) is not None:
                expires = parsed
            elif key == "domain" and text and not _domain_matches(self._origin.host, text.lstrip(".").lower()):
                return "its domain does not include the host"
            elif key == "secure" and self._origin.scheme != "https":
                return "it may be sent over https only"
        expires = expires if max_age is None else max_age
        if expires is not None and expires <= now:
            self._cookies.pop((path, name), None)
            return None
        self._cookies[path, name] = Cookie(value, expires)
        if len(self._cookies) > _MAX_COOKIES:
            self._remove_expired(now)
        if len(self._cookies) > _MAX_COOKIES:
            del self._cookies[next(iter(self._cookies))]
            return f"it is the oldest of more than {_MAX_COOKIES}"
        return None

    def _remove_expired(self, now: float) -> None:
        expired = [key for key, cookie in self._cookies.items() if (cookie.expires or now + 1.0) <= now]
        for key in expired:
            del self._cookies[key]


class CookieStore:
    """The cookies of all origins and credentials of a session; empty until one is set."""

    def __init__(self) -> None:
        # The credential is stored as well: its id is unique only as long as it exists.
        self._jars: dict[tuple[Origin, int], tuple[CookieJar, object]] = {}

    def __len__(self) -> int:
        return len(self._jars)

    def jar_for(self, origin: Origin, credential: object) -> CookieJar:
        """The cookies of this origin and credential (compared by identity)."""
        key = (origin, id(credential))
        if key not in self._jars:
            self._jars[key] = CookieJar(origin), credential
        return self._jars[key][0]

    def clear(self) -> None:
        """Forget all cookies."""
        self._jars.clear()


@functools.lru_cache(maxsize=64)
def parse_cookie_date(text: str) -> float | None:
    """A date of any form that browsers accept (RFC 6265, 5.1.1), in seconds since 1970; None for other text."""
    time: tuple[int, ...] | None = None
    day = month = year = None
    for token in filter(None, _DATE_DELIMITERS.split(text)):
        if time is None and (match := _TIME.fullmatch(token)):
            time = tuple(map(int, match.groups()))
        elif day is None and (match := _DAY.fullmatch(token)):
            day = int(match[1])
        elif month is None and token[:3].lower() in _MONTHS:
            month = _MONTHS.index(token[:3].lower()) + 1
        elif year is None and (match := _YEAR.fullmatch(token)):
            year = int(match[1])
    if time is None or day is None or month is None or year is None:
        return None
    year += 1900 if 70 <= year <= 99 else 2000 if year <= 69 else 0
    hour, minute, second = time
    if year < 1601 or not 1 <= day <= calendar.monthrange(year, month)[1] or hour > 23 or minute > 59 or second > 59:
        return None
    return float(calendar.timegm((year, month, day, hour, minute, second)))


def _path_of(url: str) -> str:
    path = urlsplit(url).path
    return path if path.startswith("/") else "/"


def _default_path(url: str) -> str:
    """The path of a cookie without a Path attribute: the folder of the URL (RFC 6265, 5.1.4)."""
    return _path_of(url).rpartition("/")[0] or "/"


def _path_matches(path: str, cookie_path: str) -> bool:
    if path == cookie_path:
        return True
    return path.startswith(cookie_path) and (cookie_path.endswith("/") or path[len(cookie_path)] == "/")


def _domain_matches(host: str, domain: str) -> bool:
    return host == domain or host.endswith(f".{domain}")
