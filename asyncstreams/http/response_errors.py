"""What does a response mean, and how is a refusal told to the user?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any

from .._json import as_array, as_object, decode
from ..auth.authenticators import known_secrets
from ..errors import AsyncStreamsError, AuthError, HttpStatusError, MalformedJSON, UnexpectedContent
from ..messages import Response
from ..models import ResponseAction
from ..protocols import Stream
from ..rate_limits.quota_headers import says_exhausted
from ..rate_limits.retry_after import retry_after, should_retry
from ..redaction import safe_url, scrub, sent_secrets

ERROR_BODY_LIMIT = 64 * 1024
_SHOWN = 200
_LOOKED_AT = 8192
_DEEPEST = 5
_MESSAGE_KEYS = (
    "detail",
    "message",
    "messages",
    "error_description",
    "error",
    "errors",
    "failures",
    "failure",
    "reason",
    "title",
    "msg",
    "description",
)
_LOGIN_MARKS = (b'type="password"', b"type='password'", b"/login", b"/signin", b"saml")
_HINTS = {
    400: "the API does not understand the request: compare path and parameters with its documentation",
    403: "the credential lacks a permission for this; a scope or a role is missing",
    404: "check url_base and path(): the URL above is the one that was asked for",
    405: "check http_method",
    410: "this endpoint is gone: look for its successor in the API's documentation",
    413: "the request is too large: ask for less at once",
    414: "the URL is too long: ask for less at once, or use POST",
    422: "a parameter has a value that the API refuses",
}


def is_transient(status: int) -> bool:
    """The statuses that are tried again by default: 408, 425, 429 and every 5xx."""
    return status >= 500 or status in (408, 425, 429)


def default_action(stream: Stream, response: Response) -> ResponseAction:
    """By status, and by the stream's `should_retry`."""
    status = response.status_code
    # A date is compared with our time later on; here it counts as an order.
    if status == 403 and (says_exhausted(response, 0.0) or _tells_of_a_limit(response)):
        return ResponseAction.THROTTLED
    if stream.should_retry(response):
        ordered = status == 429 or (status == 503 and retry_after(response, 0.0) is not None)
        return ResponseAction.THROTTLED if ordered else ResponseAction.RETRY
    if 200 <= status < 300:
        return ResponseAction.SUCCESS
    return ResponseAction.IGNORE if status == 304 else ResponseAction.FAIL


def should_be_retried(response: Response) -> bool:
    """What the API itself says of it (Stripe does), else by status."""
    told = should_retry(response)
    if told is None or 200 <= response.status_code < 400:
        return is_transient(response.status_code)
    return told


def _tells_of_a_limit(response: Response) -> bool:
    """GitHub says nothing but this of its secondary limits, sometimes."""
    return "rate limit" in (api_message(response) or "").lower()


def refusal(stream: Stream, response: Response, *, renewed: bool = False) -> AsyncStreamsError:
    """The error that a response which is not a success leaves with."""
    status = response.status_code
    told = f"answered {status} {_phrase(status)}".rstrip()
    secrets = secrets_of(stream, response)
    if message := api_message(response, secrets):
        told += f': "{message}"'
    if status == 401 or renewed:
        if stream.authenticator is None:
            hint = "the stream has no authenticator: pass authenticator=TokenAuthenticator(...)"
        else:
            hint = "the API does not accept the credential: is it complete, still valid, and for this API?"
        return AuthError(told, status=status, hint=hint)
    if 300 <= status < 400:
        target = safe_url(response.headers.get("location", ""))
        return HttpStatusError(
            f"{told}: a redirect to {target!r}, which is not followed",
            status=status,
            hint='declare the target itself, or return {"follow_redirects": True} from request_kwargs',
        )
    if 200 <= status < 300:
        told += ", which the stream's classify() takes for a failure"
    return HttpStatusError(told, status=status, hint=_HINTS.get(status))


def retry_status_error(stream: Stream, response: Response) -> HttpStatusError:
    """The error of a retryable status, for when no try is left."""
    told = f"answered {response.status_code} {_phrase(response.status_code)}".rstrip()
    if message := api_message(response, secrets_of(stream, response)):
        told += f': "{message}"'
    return HttpStatusError(
        told, status=response.status_code, hint="the API's side is at fault: try again later, or raise max_tries"
    )


def unexpected_body(stream: Stream, response: Response, error: MalformedJSON) -> AsyncStreamsError:
    """The error for a body that is not the JSON it should be: HTML and nothing at all are told apart."""
    body = response.content
    kind = response.headers.get("content-type", "no content type")
    start = body[:_LOOKED_AT].lstrip(b"\xef\xbb\xbf \t\r\n")
    # Cut after it was searched: a secret across the cut would show its first half.
    shown = scrub(start.decode("utf-8", "replace"), secrets_of(stream, response))[:_SHOWN]
    if not body:
        return UnexpectedContent(
            f"answered {response.status_code} with an empty body where JSON is due",
            hint="if an empty body means no records, say so in parse_response",
        )
    if start.startswith(b"\x1f\x8b"):
        return UnexpectedContent(f"sent gzip data that no Content-Encoding announces ({kind})")
    if start.startswith(b"<"):
        if any(mark in body[:20_000].lower() for mark in _LOGIN_MARKS):
            return AuthError(
                f"sent a login page instead of JSON ({kind}): {shown!r}",
                status=response.status_code,
                hint="the credential is missing or expired, or url_base is the website and not the API",
            )
        return UnexpectedContent(
            f"sent a page of HTML or XML instead of JSON ({kind}): {shown!r}",
            hint="is url_base the API, and not its website? Else parse the body in parse_response",
        )
    error.args = (f"{error.message} ({kind}); it begins with {shown!r}",)
    if "ndjson" in kind or "jsonl" in kind or b"}\n{" in body[:_LOOKED_AT]:
        error.hint = "these are JSON lines: `async for record in ndjson(response): yield record` in parse_response"
    return error


def secrets_of(stream: Stream, response: Response) -> set[str]:
    """Every secret that an answer to this request might repeat."""
    return {*sent_secrets(response.request), *known_secrets(stream.authenticator)} - {""}


def api_message(response: Response, secrets: Iterable[str] = ()) -> str | None:
    """What the API itself says: RFC 9457's title and detail, or one of the usual keys."""
    if not response.has_body:
        return None
    try:
        body = decode(response.content[:ERROR_BODY_LIMIT])
    except MalformedJSON:
        return None
    told = ", ".join(dict.fromkeys(_texts(body)))
    return scrub(" ".join(told.split()), secrets)[: _SHOWN + 100] or None


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth > _DEEPEST:
        return
    elif (items := as_array(value)) is not None:
        for item in items[:5]:
            yield from _texts(item, depth + 1)
    elif (fields := as_object(value)) is not None:
        title, detail = fields.get("title"), fields.get("detail")
        if isinstance(title, str) and isinstance(detail, str):
            yield f"{title}: {detail}"
            return
        key = next((key for key in _MESSAGE_KEYS if fields.get(key)), None)
        if key is not None:
            yield from _texts(fields[key], depth + 1)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
