"""Redirects: where each may lead, and whether the credential goes along."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple
from urllib.parse import unquote, unquote_plus, urlsplit

import httpx

from ..errors import CrossOriginLink, HttpStatusError
from ..messages import Response
from ..redaction import safe_url
from .origin import Origin, absolute_url, secure_url

MAX_REDIRECTS = 5
_REPEATED_UNCHANGED = (307, 308)
_MIN_SECRET_CHARS = 4
_MIN_DISTINCT_CHARS = 16  # a secret of this length is found anywhere in a URL, a shorter one as a whole parameter
_CREDENTIAL_HEADER = re.compile(r".*(?:auth|cookie|token|secret|passw|key|credential|signature|session).*", re.I)
_CREDENTIAL_PARAM = re.compile(
    r".*(?:api[-_]?key|access[-_]?key|access[-_]?token|auth|secret|passw|credential|signature).*|key|token|sig", re.I
)


class RedirectTarget(NamedTuple):
    """The URL of the next hop. `is_own`: the credential, the cookies and the headers of the stream may go there."""

    url: str
    origin: Origin
    is_own: bool


def redirect_target(
    request: httpx.Request,
    response: Response,
    own_origins: frozenset[Origin],
    *,
    allows_private: bool,
    show_url: Callable[[str], str] = safe_url,
) -> RedirectTarget:
    """The target of a redirect that was the response to `request`.

    To other origins only GET and HEAD without a body are redirected, never from https to http, and to private
    addresses only if `allows_private`. Raises CrossOriginLink, or HttpStatusError for a redirect that would change
    the method; both name the target by `show_url`, which removes its query.
    """
    # Bytes that are not UTF-8 are kept as they are.
    location = b", ".join(response.raw_header_lines(b"location")[:1]).decode("utf-8", "surrogateescape")
    url = str(request.url)
    try:
        target, origin = absolute_url(location, url)
    except ValueError as error:
        problem = f"redirects to a URL that cannot be requested ({error}): {show_url(location)!r}"
        raise CrossOriginLink(problem, status=response.status_code) from None
    is_downgrade = url[:6].lower() == "https:" and origin.scheme == "http"
    if (is_downgrade or origin not in own_origins) and (secure := secure_url(target, origin, own_origins)) is not None:
        target, origin, is_downgrade = secure, Origin("https", origin.host, 443), False
    is_own = origin in own_origins
    shown = show_url(target)
    _check_method(request, response, shown, is_own=is_own)
    if is_downgrade:
        refused = f"redirects from https to http, {shown!r}: nothing was sent there"
        raise CrossOriginLink(refused, status=response.status_code)
    if not is_own and origin.is_private and not allows_private:
        refused = f"redirects to {shown!r}, whose address is not public: nothing was sent there"
        raise CrossOriginLink(refused, status=response.status_code)
    return RedirectTarget(target, origin, is_own)


def carries_secret(url: str, secrets: Iterable[str]) -> bool:
    """Whether a URL contains a secret: one of 16 or more characters anywhere, a shorter one as a whole parameter."""
    parts = urlsplit(url)
    values = {unquote_plus(item.partition("=")[2]) for item in parts.query.split("&")}
    values |= {unquote(item.partition("=")[2]) for item in parts.query.split("&")}
    text = "\n".join((unquote(parts.path), *values))
    return any(
        secret in values or (len(secret) >= _MIN_DISTINCT_CHARS and secret in text)
        for secret in secrets
        if len(secret) >= _MIN_SECRET_CHARS
    )


def header_secrets(request: httpx.Request) -> Iterator[str]:
    """The values of headers that are probably credentials, by their names."""
    for name, value in request.headers.multi_items():
        if _CREDENTIAL_HEADER.fullmatch(name):
            yield value
            yield value.partition(" ")[2]
            yield from (pair.partition("=")[2].strip() for pair in value.split(";"))


def parameter_secrets(request: httpx.Request) -> Iterator[str]:
    """The values of parameters in the URL that are probably credentials, by their names."""
    for item in urlsplit(str(request.url)).query.split("&"):
        name, _, value = item.partition("=")
        if _CREDENTIAL_PARAM.fullmatch(unquote(name)):
            yield from (unquote_plus(value), unquote(value))


def _check_method(request: httpx.Request, response: Response, shown_target: str, *, is_own: bool) -> None:
    method, status = request.method, response.status_code
    has_body = bool(getattr(request, "_content", b""))
    repeats = status in _REPEATED_UNCHANGED
    if method in ("GET", "HEAD"):
        repeats = repeats or status != 303
        if not has_body or (is_own and repeats):
            return
        method += " with a body"
    elif is_own and repeats:
        return
    if repeats:
        raise CrossOriginLink(
            f"redirects a {method} to another origin, {shown_target!r}: nothing was sent there",
            status=status,
            hint="if the API has moved, set url_base or path to the target",
        )
    raise HttpStatusError(
        f"answered a {method} with a redirect to {shown_target!r} that would send a GET without the body",
        status=status,
        hint="set url_base, path or http_method to what the API expects",
    )
