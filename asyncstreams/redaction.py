"""Removal of secrets from URLs, values and texts before they are shown."""

from __future__ import annotations

import base64
import binascii
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx

MASK = "***"
"""The text that is shown in place of a secret."""
_MIN_SECRET_CHARS = 4  # a shorter secret is removed only where it is a word or a segment of its own
_MAX_REMEMBERED_SECRETS = 4096
_MAX_SHOWN_DEPTH = 8
_SPACES = r"(?:\s|\+|(?i:(?:%[0-9a-f]{2})+|\\u[0-9a-f]{4}|\\x[0-9a-f]{2}|\\[nrtfv]|&nbsp;))+"
_HTML_ESCAPES = {"&": ["&amp;"], "<": ["&lt;"], ">": ["&gt;"], '"': ["&quot;", "&#34;"], "'": ["&#x27;", "&#39;"]}
_MAX_FORM_BYTES = 16 * 1024
# `re` compiles these on first use: most programs need none of them.
_JSON_STRING = r':\s*"((?:[^"\\]|\\.)*)"'
_HARMLESS_HEADERS = frozenset(
    ("accept", "accept-encoding", "connection", "content-length", "content-type", "host", "user-agent")
)
# The bounds, and the beginning of a word, keep the search linear in long texts without white space.
_SECRET_NAME = (
    r"(?<![\w.-])[\w.-]{0,64}(?:token|secret|passw|api[-_]?key|authorization|credential|signature|session)[\w.-]{0,64}"
)
_NAMED_SECRET = rf"""(?i)(["']?{_SECRET_NAME}["']?\s*[:=]\s*)("(?:[^"\\]|\\.)*"?|'[^']*'?|[^\s,&;}}]+)"""
# A word after "Token" counts as a credential if it is long, or contains a digit or punctuation.
_BEARER = r"(?i)\b(Bearer|Basic|Token)\s+(?=\S{16}|\S*[\d._~+/=-]\S)[\w.~+/=-]{6,}"
_URL = r"(?i)\b[a-z][a-z0-9+.-]{0,31}://[^\s\"'<>]*"
_USERINFO = r"(?i)(\b[a-z][a-z0-9+.-]{0,31}://)[^\s/@\"'<>]+@"
# A value is a URL as a whole if it has a scheme, or a query with a named parameter; it contains no white space.
_WHOLE_URL = r"(?i)([a-z][a-z0-9+.-]*://[^\s?#]*)([?#]\S*)?"
_RELATIVE_URL = r"([^\s?]*)\?[\w.~%$\[\]-]+=\S*"


class HiddenText(Protocol):
    """A text that only `reveal` returns, as of a Secret; the parts of it that have to stay hidden."""

    def reveal(self) -> str: ...

    def hidden_parts(self) -> Sequence[str]: ...


class RevealedSecrets:
    """The Secrets that the requests of one session carried: whatever is shown of the session is masked with them.

    The latest 4,096 are remembered.
    """

    def __init__(self) -> None:
        self._values: dict[str, None] = {}

    def reveal(self, secret: HiddenText) -> str:
        """The text of a secret that is about to be sent."""
        for value in filter(None, secret.hidden_parts()):
            self._values.pop(value, None)
            self._values[value] = None
            if len(self._values) > _MAX_REMEMBERED_SECRETS:
                del self._values[next(iter(self._values))]
        return secret.reveal()

    def mask(self, text: str) -> str:
        """The text without the secrets, in any of their encodings. Short ones stay: they may be part of a word."""
        return _remove(text, [value for value in self._values if len(value) >= _MIN_SECRET_CHARS])

    def mask_url(self, url: str) -> str:
        """The result of `safe_url` without the secrets; a short one is removed if it is a whole segment."""
        shown = safe_url(url)
        if self._values and "/" in shown:
            shown = "/".join([MASK if unquote(part) in self._values else part for part in shown.split("/")])
        return self.mask(shown)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._values))

    def __bool__(self) -> bool:
        return bool(self._values)

    def __repr__(self) -> str:
        return f"<{len(self._values)} secrets>"


_PLAIN_URL = re.compile(r"(https?://[a-z0-9.-]+(?::[0-9]+)?(?:/[!$-.0->A-~]*)*)(?:[?#]|$)")
"""A URL without user information, whose path has no `@`; a part of those that need no further look."""


def safe_url(url: str) -> str:
    """The URL without query, fragment and user information, each of which may contain a secret."""
    if "@" not in url and (plain := _PLAIN_URL.match(url)) is not None:
        return plain[1]
    try:
        parts = urlsplit(url)
    except ValueError:
        return MASK
    if "@" in parts.path:
        return f"{parts.scheme}://{MASK}"  # the "@" may end a password that contains a slash
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else parts.path


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without the given secrets, in any of their encodings, and without parts that look like secrets.

    Secrets of fewer than four characters are removed only where they are a word of their own.
    """
    known = {secret for secret in secrets if secret}
    text = cut_queries(_remove(text, known))
    text = re.sub(_NAMED_SECRET, rf"\1{MASK}", text)
    text = re.sub(_BEARER, rf"\1 {MASK}", text)
    for short in (secret for secret in known if len(secret) < _MIN_SECRET_CHARS):
        text = re.sub(rf"(?<!\w){re.escape(short)}(?!\w)", MASK, text)
    return text


def cut_queries(text: str) -> str:
    """The text with the query, the fragment and the user information of each URL in it masked."""
    if "://" not in text:
        return text
    return re.sub(_URL, _cut_query, re.sub(_USERINFO, rf"\1{MASK}@", text))


def _cut_query(url: re.Match[str]) -> str:
    end = re.search("[?#]", url[0])
    return url[0] if end is None else f"{url[0][: end.start()]}?{MASK}"


def has_secret(value: object) -> bool:
    """Whether a value, such as a slice, is or contains a Secret."""
    if value is None or isinstance(value, str | int | float):
        return False
    if isinstance(value, Mapping):
        return any(map(has_secret, cast(Mapping[object, object], value).values()))
    if isinstance(value, list | tuple):
        return any(map(has_secret, cast(Sequence[object], value)))
    return hasattr(value, "reveal")


def replace_secrets(value: object, replacement: Callable[[HiddenText], object]) -> Any:
    """A copy of a value with replacements for the Secrets in it; mappings become dicts, and sequences lists."""
    if not has_secret(value):
        return value
    if isinstance(value, Mapping):
        items = cast(Mapping[object, object], value).items()
        return {name: replace_secrets(item, replacement) for name, item in items}
    if isinstance(value, list | tuple):
        return [replace_secrets(item, replacement) for item in cast(Sequence[object], value)]
    return replacement(cast(HiddenText, value))


def displayed(value: object) -> str:
    """The repr of a value for messages, such as a slice. The query of each string that is a URL is masked."""
    return repr(_without_queries(value, 0))


def _without_queries(value: object, depth: int) -> Any:
    if isinstance(value, str):
        return _without_query(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth < _MAX_SHOWN_DEPTH:
        if isinstance(value, Mapping):
            items = cast(Mapping[object, object], value).items()
            return {_without_queries(key, depth): _without_queries(item, depth + 1) for key, item in items}
        if type(value) in (list, tuple, set):
            shown = [_without_queries(item, depth + 1) for item in cast(Iterable[object], value)]
            if isinstance(value, set):
                return _Shown(f"{{{', '.join(map(repr, shown))}}}")
            return tuple(shown) if isinstance(value, tuple) else shown
    return _Shown(cut_queries(repr(value)))


def _without_query(text: str) -> str:
    if url := re.fullmatch(_WHOLE_URL, text):
        start = re.sub(_USERINFO, rf"\1{MASK}@", url[1])
        return f"{start}?{MASK}" if url[2] else start
    if url := re.fullmatch(_RELATIVE_URL, text):
        return f"{url[1]}?{MASK}"
    return cut_queries(text)


class _Shown(str):
    """A text whose repr is the text itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def is_secret_name(name: str) -> bool:
    """Whether a header, parameter or field of this name usually holds a secret, such as `api_key` or `Cookie`."""
    return re.fullmatch(rf"(?i){_SECRET_NAME}|key|sig|auth|(set-)?cookie", name) is not None


def sent_secrets(request: httpx.Request) -> set[str]:
    """Every value of the request that may be a secret, because an API may echo it in its response.

    The Secrets of all requests of the session are included.
    """
    revealed: Iterable[str] = getattr(request.extensions.get("asyncstreams"), "secrets", None) or ()
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
    return {value for value in found if len(value) >= _MIN_SECRET_CHARS}.union(revealed)


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


def _remove(text: str, secrets: Iterable[str]) -> str:
    """The text without the secrets of at least four characters, the longest ones first."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _MIN_SECRET_CHARS:
            pattern, forms = _encodings(secret)
            if pattern is not None:
                text = pattern.sub(MASK, text)
            for form in forms:
                text = text.replace(form, MASK)
    return text


@functools.lru_cache(maxsize=_MAX_REMEMBERED_SECRETS)
def _encodings(secret: str) -> tuple[re.Pattern[str] | None, Sequence[str]]:
    """The forms in which a secret may be shown: base64, and escapes of its characters in any mixture."""
    octets = secret.encode("utf-8", "surrogatepass")
    encoded = [base64.b64encode(octets).decode(), base64.urlsafe_b64encode(octets).decode()]
    forms = sorted({form for text in encoded for form in (text, text.rstrip("="))}, key=len, reverse=True)
    if not secret.isascii():
        forms.append(octets.decode("latin-1"))  # UTF-8 that was read in a wrong charset
    if re.fullmatch(r"[\w.~-]*", secret, re.ASCII):
        return None, [secret, *forms]
    # Messages may collapse white space.
    words = ["".join(map(_character_pattern, word)) for word in re.split(r"\s+", secret)]
    return re.compile(_SPACES.join(words)), forms


def _character_pattern(char: str) -> str:
    """A pattern of a character: as it is, percent-encoded, or escaped in JSON, Python or HTML."""
    if char.isascii() and char.isalnum():
        return char
    percent = "".join(f"%{octet:02x}" for octet in char.encode("utf-8", "surrogatepass"))
    units = json.dumps(char)[1:-1]
    forms = {percent, units, repr(char)[1:-1], ascii(char)[1:-1], f"\\{char}", *_HTML_ESCAPES.get(char, ())} - {char}
    escapes = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
    return f"(?:(?i:{escapes})|{re.escape(char)})"
