"""What may be shown of a URL or a text that somebody else wrote?"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

import httpx

_HIDDEN = "***"
_SHORTEST = 4
_LARGEST_FORM = 16 * 1024
_JSON_STRING = re.compile(r':\s*"((?:[^"\\]|\\.)*)"')
_HARMLESS_HEADERS = frozenset(
    ("accept", "accept-encoding", "connection", "content-length", "content-type", "host", "user-agent")
)
_SECRET_NAME = r"[\w.-]*(?:token|secret|passw|api[-_]?key|authorization|credential|signature|session)[\w.-]*"
_NAMED_SECRET = re.compile(rf"""(["']?{_SECRET_NAME}["']?\s*[:=]\s*)("(?:[^"\\]|\\.)*"?|'[^']*'?|[^\s,&;}}]+)""", re.I)
# A word after "Token" is a credential when it looks like one: long, or with a digit or sign in it.
_BEARER = re.compile(r"\b(Bearer|Basic|Token)\s+(?=\S{16}|\S*[\d._~+/=-]\S)[\w.~+/=-]{6,}", re.I)
_URL_QUERY = re.compile(r"(\bhttps?://[^\s\"'<>?#]*)[?#][^\s\"'<>]*", re.I)
_USERINFO = re.compile(r"(\bhttps?://)[^\s/@\"'<>]+@", re.I)


def safe_url(url: str) -> str:
    """The URL without query, fragment and user information: any of them may hold a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return _HIDDEN
    if "@" in parts.path:
        return f"{parts.scheme}://{_HIDDEN}"  # a password with a slash in it ends where nobody expects
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else parts.path


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without the given secrets, in any of their encodings, and without what looks like one."""
    for secret in sorted({form for value in secrets for form in _forms(value)}, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    text = _USERINFO.sub(rf"\1{_HIDDEN}@", text)
    text = _URL_QUERY.sub(rf"\1?{_HIDDEN}", text)
    text = _NAMED_SECRET.sub(rf"\1{_HIDDEN}", text)
    return _BEARER.sub(rf"\1 {_HIDDEN}", text)


def sent_secrets(request: httpx.Request) -> set[str]:
    """Every value of the request that may be a secret: an API may echo it in its answer."""
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
    return {value for value in found if len(value) >= _SHORTEST}


def _body_values(request: httpx.Request) -> Iterable[str]:
    """The values of a form or of a flat JSON object: a token request carries its secrets there."""
    body: bytes = getattr(request, "_content", b"")
    if not body or len(body) > _LARGEST_FORM:
        return []
    text = body.decode("utf-8", "replace")
    return [*(value for _, value in parse_qsl(text)), *_JSON_STRING.findall(text)]


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


def _forms(secret: str) -> Iterable[str]:
    if len(secret) >= _SHORTEST:
        yield from (secret, quote(secret, safe=""), quote_plus(secret))
        octets = secret.encode("utf-8", "surrogatepass")
        for encoded in (base64.b64encode(octets), base64.urlsafe_b64encode(octets)):
            yield encoded.decode()
            yield encoded.decode().rstrip("=")
