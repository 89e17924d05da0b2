"""Removal of secrets from URLs and texts before they are shown."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

import httpx

_MASK = "***"
_MIN_SECRET_CHARS = 4
_MAX_FORM_BYTES = 16 * 1024
# `re` compiles these on first use: most programs need none of them.
_JSON_STRING = r':\s*"((?:[^"\\]|\\.)*)"'
_HARMLESS_HEADERS = frozenset(
    ("accept", "accept-encoding", "connection", "content-length", "content-type", "host", "user-agent")
)
_SECRET_NAME = r"[\w.-]*(?:token|secret|passw|api[-_]?key|authorization|credential|signature|session)[\w.-]*"
_NAMED_SECRET = rf"""(?i)(["']?{_SECRET_NAME}["']?\s*[:=]\s*)("(?:[^"\\]|\\.)*"?|'[^']*'?|[^\s,&;}}]+)"""
# A word after "Token" counts as a credential if it is long, or contains a digit or punctuation.
_BEARER = r"(?i)\b(Bearer|Basic|Token)\s+(?=\S{16}|\S*[\d._~+/=-]\S)[\w.~+/=-]{6,}"
_URL_QUERY = r"(?i)(\bhttps?://[^\s\"'<>?#]*)[?#][^\s\"'<>]*"
_USERINFO = r"(?i)(\bhttps?://)[^\s/@\"'<>]+@"


def safe_url(url: str) -> str:
    """The URL without query, fragment and user information, each of which may contain a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return _MASK
    if "@" in parts.path:
        return f"{parts.scheme}://{_MASK}"  # the "@" may end a password that contains a slash
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else parts.path


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without the given secrets, in any of their encodings, and without parts that look like secrets."""
    for secret in sorted({form for value in secrets for form in _encodings(value)}, key=len, reverse=True):
        text = text.replace(secret, _MASK)
    text = re.sub(_USERINFO, rf"\1{_MASK}@", text)
    text = re.sub(_URL_QUERY, rf"\1?{_MASK}", text)
    text = re.sub(_NAMED_SECRET, rf"\1{_MASK}", text)
    return re.sub(_BEARER, rf"\1 {_MASK}", text)


def sent_secrets(request: httpx.Request) -> set[str]:
    """Every value of the request that may be a secret, because an API may echo it in its response."""
    found: set[str] = set()
    for name, value in request.headers.multi_items():
        if name.lower() in _HARMLESS_HEADERS:
            continue
        found.add(value)
        found.update(_credentials(value))
    for name, value in parse_qsl(request.url.query.decode("ascii", "replace")):
        if re.fullmatch(rf"{_SECRET_NAME}|key|sig|auth|code", name, re.I):
            found.add(value)
    found.update(_body_values(request))
    return {value for value in found if len(value) >= _MIN_SECRET_CHARS}


def _body_values(request: httpx.Request) -> Iterable[str]:
    """The values of a form or a flat JSON object: the secrets of a token request."""
    body: bytes = getattr(request, "_content", b"")
    if not body or len(body) > _MAX_FORM_BYTES:
        return []
    text = body.decode("utf-8", "replace")
    return [*(value for _, value in parse_qsl(text)), *re.findall(_JSON_STRING, text)]


def _credentials(value: str) -> Iterable[str]:
    scheme, _, rest = value.partition(" ")
    if rest:
        yield rest
    if scheme.lower() == "basic":
        try:
            yield from base64.b64decode(rest, validate=True).decode("utf-8", "replace").split(":", 1)
        except binascii.Error:
            return
    if "=" in value:
        yield from (part.strip().partition("=")[2] for part in value.split(";"))


def _encodings(secret: str) -> Iterable[str]:
    if len(secret) >= _MIN_SECRET_CHARS:
        yield from (secret, quote(secret, safe=""), quote_plus(secret))
        octets = secret.encode("utf-8", "surrogatepass")
        for encoded in (base64.b64encode(octets), base64.urlsafe_b64encode(octets)):
            yield encoded.decode()
            yield encoded.decode().rstrip("=")
