"""The words of an API in the body of an error response: JSON, XML, HTML or plain text."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from html import unescape
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

import httpx

from .._json import as_array, as_object, decode
from ..errors import MalformedJSON
from ..redaction import scrub
from ..visible_text import escape_controls
from .charsets import MARK_BYTES, UTF8, declared_charset, find_charset, text_charset

MAX_ERROR_TEXT_CHARS = 300
_MAX_MARKUP_CHARS = 64 * 1024
_MAX_TEXT_CHARS = 8192  # scrubbed and shortened afterwards
_MAX_CUT_SECRET_CHARS = 2048
_MAX_DEPTH = 6
_MAX_ITEMS = 5
# Keys in lower case without separators: "errorMessage", "error_message" and "Error-Message" are one.
_MESSAGE_KEYS = (
    "faultstring",
    "detail",
    "message",
    "messages",
    "errordescription",
    "errordetail",
    "errormessage",
    "errormessages",
    "errormsg",
    "errmsg",
    "errorsummary",
    "errorinfo",
    "error",
    "errors",
    "err",
    "details",
    "fault",
    "faults",
    "exceptionmessage",
    "exception",
    "usermessage",
    "developermessage",
    "localizedmessage",
    "failures",
    "failure",
    "problem",
    "problems",
    "violations",
    "reason",
    "title",
    "msg",
    "statusmessage",
    "validationerrors",
    "statustext",
    "description",
    "summary",
    "text",
    "info",
    "invalidparams",
    "response",
    "data",
    "meta",
    "result",
    "value",
)
_DETAIL_KEYS = ("errors", "invalidparams", "violations", "fielderrors", "elements", "validationerrors")
_FIELD_KEYS = ("field", "parameter", "param", "pointer", "property", "name")
_CODE_KEYS = ("code", "errorcode", "status", "type")
_XML_MESSAGES = (
    "message",
    "faultstring",
    "reason",
    "text",
    "detail",
    "details",
    "error_description",
    "errormessage",
    "description",
    "error",
    "title",
)
_XML_CODES = ("code", "errorcode", "faultcode")
_HTML_MESSAGES = ("title", "h1", "h2", "p", "pre")
_GZIP_MAGIC = b"\x1f\x8b\x08"
_MAX_NESTING = 32
_MAX_SHOWN_KEYS = 20
_VOID_ELEMENTS = frozenset(("br", "meta", "link", "img", "hr", "input", "base"))
_HIDDEN_ELEMENTS = frozenset(("script", "style", "svg", "template", "noscript"))
# `re` compiles these on first use: most programs need none of them.
_MESSAGE_ATTRIBUTE = (
    r"""(?i)\s(message|errormessage|description|reason|error)\s*=\s*(?:"([^"]{3,2000})"|'([^']{3,2000})')"""
)
_HTML_START = r"<(?:!doctype html|html|head|body|h1|center|p|div)\b"
_META_CHARSET = r"""(?i)<(?:meta|\?xml)\b[^>]{0,200}?(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)"""
_QUOTED_MESSAGE = (
    r"""(?i)["']((?:error|user|exception|fault|developer)?[_-]?(?:message|detail|description|string|reason|error))["']"""
    r"""\s*:\s*"((?:[^"\\]|\\.){1,2000})"""
)
_CONTROL_BYTES = rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]"


def error_text(response: httpx.Response, secrets: Iterable[str] = ()) -> str | None:
    """What an API says is wrong, in up to 300 characters without secrets; None if its body says nothing.

    The body must have been read. Its message may stand under any common key of JSON, in RFC 9457, XML or plain text,
    or in the title and the first heading of an HTML page. Control characters are shown as escapes.
    """
    try:
        body = _unpacked(response.content)
    except httpx.ResponseNotRead:
        return None
    content_type = response.headers.get("content-type", "").lower()
    text = ", ".join(dict.fromkeys(filter(_has_words, map(_collapse, find_texts(body, content_type)))))
    if _repeats_status(text, response.status_code):
        return None
    return shown_text(text, secrets) or None


def _unpacked(body: bytes) -> bytes:
    """The beginning of a body that is a gzip file: some servers leave out its Content-Encoding."""
    if not body.startswith(_GZIP_MAGIC):
        return body
    try:
        return zlib.decompressobj(31).decompress(body, _MAX_MARKUP_CHARS)
    except zlib.error:
        return body


def shown_text(text: str, secrets: Iterable[str] = (), max_chars: int = MAX_ERROR_TEXT_CHARS) -> str:
    """A text of a server, fit for logs: on one line, without secrets, shortened, control characters as escapes."""
    # Scrubbed before it is cut: a secret across the cut would show its first half.
    clean = scrub(_collapse(text[:_MAX_TEXT_CHARS]), secrets)
    if len(text) > _MAX_TEXT_CHARS:
        clean = clean[:-_MAX_CUT_SECRET_CHARS]
    return escape_controls(clean[:max_chars])[:max_chars]


def shown_keys(fields: Iterable[str]) -> str:
    """The first 20 keys of an object, sorted, for messages."""
    return escape_controls(", ".join(sorted(fields)[:_MAX_SHOWN_KEYS]))


def is_html_page(response: httpx.Response) -> bool:
    """Whether the body is an HTML page, by its content type or its beginning."""
    text = decode_text(response.content[:2048], content_type := response.headers.get("content-type", "").lower())
    start = text.lstrip("\ufeff \t\r\n").lower()
    # Some APIs declare their JSON as text/html.
    return start.startswith("<") and ("html" in content_type or re.search(_HTML_START, start) is not None)


def decode_text(body: bytes, content_type: str = "") -> str:
    """The body as text, in its charset. An error page is often wrong about it: undecodable bytes are replaced."""
    charset, mark_bytes = text_charset(body[:MARK_BYTES], declared_charset(content_type.encode("latin-1", "replace")))
    if charset == UTF8 and body[:1024].lstrip().startswith(b"<"):
        found = re.search(_META_CHARSET, body[:2048].decode("latin-1"))
        charset = (find_charset(found[1]) if found else None) or UTF8
    text = body[mark_bytes:]
    if charset != UTF8:
        return text.decode(charset, "replace")
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        # A long body is cut off, perhaps within a character.
        if error.start >= max(len(text) - 3, _MAX_MARKUP_CHARS):
            return text.decode("utf-8", "ignore")
    return text.decode("cp1252", "replace")


def find_texts(body: bytes, content_type: str) -> Iterator[str]:
    """The texts of a body that say what is wrong, the most important ones first."""
    if not body.strip() or content_type.startswith(("image/", "audio/", "video/", "font/", "application/pdf")):
        return
    text = decode_text(body, content_type).strip()
    if "x-www-form-urlencoded" in content_type and "=" in text:
        fields = parse_qs(text[:_MAX_TEXT_CHARS])
        yield from json_texts({name: values[0] for name, values in fields.items()})
        return
    start = text[:1].lstrip("\ufeff")
    if start == "<":
        is_html = "html" in content_type or re.search(_HTML_START, text[:2048].lower()) is not None
        yield from _markup_texts(text[:_MAX_MARKUP_CHARS], is_html=is_html)
        return
    try:
        yield from json_texts(decode(text.encode("utf-8", "surrogatepass")))
    except MalformedJSON:
        pass
    else:
        return
    if quoted := re.findall(_QUOTED_MESSAGE, text[:_MAX_MARKUP_CHARS]):
        # JSON that was cut off, or that no strict parser accepts.
        yield from (_unescape(message) for _, message in quoted[:_MAX_ITEMS])
    elif len(re.findall(_CONTROL_BYTES, text[:_MAX_TEXT_CHARS].encode("utf-8", "replace"))) <= len(text) // 20:
        yield text[:_MAX_TEXT_CHARS]


def json_texts(value: Any, depth: int = 0) -> Iterator[str]:
    """The messages within a JSON value of an error, as title and detail of RFC 9457 or under a common key."""
    if isinstance(value, str):
        yield value[:_MAX_TEXT_CHARS]
    elif depth > _MAX_DEPTH:
        return
    elif (items := as_array(value)) is not None:
        for item in items[:_MAX_ITEMS]:
            yield from json_texts(item, depth + 1)
    elif (fields := as_object(value)) is not None:
        yield from _object_texts({_normalized(key): value for key, value in fields.items()}, fields, depth)


def _object_texts(by_key: dict[str, Any], fields: dict[str, Any], depth: int) -> Iterator[str]:
    title, detail = by_key.get("title"), by_key.get("detail")
    code, description = by_key.get("error"), by_key.get("errordescription")
    if isinstance(title, str) and isinstance(detail, str):
        yield f"{title}: {detail}"
        yield from _detail_texts(by_key, depth)
        return
    if isinstance(code, str) and isinstance(description, str):
        yield f"{code}: {description}"
        return
    if isinstance(title, str) and (details := list(_detail_texts(by_key, depth))):
        yield f"{title.rstrip('.')}: {details[0]}"
        yield from details[1:]
        return
    for key in _MESSAGE_KEYS:
        if key in by_key and (texts := list(_nonempty(json_texts(by_key[key], depth + 1)))):
            field = next((by_key[key] for key in _FIELD_KEYS if isinstance(by_key.get(key), str)), "") if depth else ""
            yield from (f"{field}: {text}" if field else text for text in texts)
            if key not in _DETAIL_KEYS:
                yield from _detail_texts(by_key, depth)
            return
    # A message for each field, as frameworks of forms send it: {"since": ["must precede until"]}.
    named = [
        f"{name}: {text}"
        for name, value in fields.items()
        if depth or isinstance(value, list) or (isinstance(value, str) and " " in value)
        for text in _nonempty(json_texts(value, depth + 1))
    ]
    if named:
        yield from named[:_MAX_ITEMS]
        return
    # A message within another object, such as {"status": {"error_message": "..."}}.
    for value in fields.values() if not depth else ():
        if isinstance(value, dict) and (texts := list(_nonempty(json_texts(value, depth + 1)))):
            yield from texts
            return
    yield from (by_key[key] for key in _CODE_KEYS if isinstance(by_key.get(key), str))


def _detail_texts(by_key: dict[str, Any], depth: int) -> Iterator[str]:
    for key in _DETAIL_KEYS:
        if key in by_key:
            yield from _nonempty(json_texts(by_key[key], depth + 1))


def _nonempty(texts: Iterable[str]) -> Iterator[str]:
    return (text for text in texts if text.strip())


def _normalized(key: str) -> str:
    return key.lower().replace("_", "").replace("-", "").rpartition(":")[2]


def _markup_texts(text: str, *, is_html: bool) -> Iterator[str]:
    """Title, heading and first paragraph of a page; code and message of an XML document."""
    found: dict[str, list[str]] = {}
    for name, content in _elements(text):
        if content:
            found.setdefault(name, []).append(content)
    if is_html:
        names = [name for name in _HTML_MESSAGES if name in found and not (name == "pre" and "p" in found)]
        yield ": ".join(dict.fromkeys(found[name][0] for name in names))
        return
    code = next((found[name][0] for name in _XML_CODES if name in found), "")
    messages = next((found[name] for name in _XML_MESSAGES if name in found), list[str]())
    if not messages and not code:
        messages = [" ".join(contents[-1] for contents in found.values())[:_MAX_TEXT_CHARS]] if found else []
    for number, message in enumerate(messages[:_MAX_ITEMS]):
        yield f"{code}: {message}" if code and not number and code not in message else message
    if code and not messages:
        yield code


def _elements(text: str) -> Iterator[tuple[str, str]]:
    """The local names, in lower case, and the text of the elements of XML or HTML, as they end.

    Written for error pages, whose markup is often wrong: nothing is refused, and entities are not declared.
    """
    stack: list[tuple[str, list[str]]] = [("", [])]
    for kind, token in _markup_tokens(text):
        if kind == "text":
            if not any(name in _HIDDEN_ELEMENTS for name, _ in stack):
                stack[-1][1].append(token)
            continue
        name = re.split(r"[\s/>]", token.strip("/ \t\r\n"), maxsplit=1)[0].lower().rpartition(":")[2]
        if kind == "end":
            if all(name != open_name for open_name, _ in stack[1:]):
                continue
            while len(stack) > 1:
                ended, parts = stack.pop()
                content = _collapse(" ".join(parts))
                stack[-1][1].append(content)
                yield ended, content
                if ended == name:
                    break
        else:
            yield from _message_attributes(token)
            if not token.endswith("/") and name not in _VOID_ELEMENTS and len(stack) < _MAX_NESTING:
                stack.append((name, []))
    while len(stack) > 1:
        ended, parts = stack.pop()
        content = _collapse(" ".join(parts))
        stack[-1][1].append(content)
        yield ended, content


def _message_attributes(tag: str) -> Iterator[tuple[str, str]]:
    """The attributes of a start tag that may be a message: some XML APIs write it there."""
    if "=" in tag:
        for name, quoted, single in re.findall(_MESSAGE_ATTRIBUTE, tag):
            yield name.lower(), _collapse(unescape(quoted or single))


def _markup_tokens(text: str) -> Iterator[tuple[str, str]]:
    """Texts, start tags and end tags, in one pass."""
    position = 0
    while (start := text.find("<", position)) >= 0:
        if start > position:
            yield "text", unescape(text[position:start])
        if text.startswith("<!--", start):
            end, size = text.find("-->", start), 3
        elif text.startswith("<![CDATA[", start):
            end, size = text.find("]]>", start), 3
            yield "text", text[start + 9 : end if end >= 0 else None]
        else:
            end, size = text.find(">", start), 1
            token = text[start + 1 : end if end >= 0 else None]
            if end >= 0 and token[:1] not in ("!", "?"):
                yield ("end", token[1:]) if token.startswith("/") else ("start", token)
        if end < 0:
            return
        position = end + size
    if position < len(text):
        yield "text", unescape(text[position:])


def _unescape(text: str) -> str:
    """The value of a JSON string without its quotes."""
    try:
        value = decode(f'"{text}"'.encode("utf-8", "surrogatepass"))
    except MalformedJSON:
        return text
    return value if isinstance(value, str) else text


def _collapse(text: str) -> str:
    return " ".join(text.split())


def _has_words(text: str) -> bool:
    return any(map(str.isalnum, text))


def _repeats_status(text: str, status: int) -> bool:
    """Whether a text has no word beyond the status and its phrase, as the pages of web servers."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    known = {str(status), "error", "http", "status", "code", *phrase.lower().split()}
    words = set(re.findall(r"[^\W_]+", text.lower()))
    return bool(words) and words <= known and str(status) in words
