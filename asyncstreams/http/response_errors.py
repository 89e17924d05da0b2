"""Classification of responses, and the errors for those that fail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any

from .._json import as_array, as_object, decode
from ..auth.authenticators import held_secrets
from ..errors import AsyncStreamsError, AuthError, HttpStatusError, MalformedJSON, UnexpectedContent
from ..messages import Response
from ..models import ResponseAction
from ..protocols import Stream
from ..rate_limits.quota_headers import asks_to_wait
from ..rate_limits.retry_after import retry_after, should_retry
from ..redaction import safe_url, scrub, sent_secrets

MAX_ERROR_BODY_BYTES = 64 * 1024
_EXCERPT_CHARS = 200
_MAX_SNIFF_BYTES = 8192
_MAX_DEPTH = 5
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
    400: "the API considers the request malformed: compare path and parameters with its documentation",
    403: "the credential lacks permission: add the missing scope or role",
    404: "check url_base and path(): the URL above is the one that was requested",
    405: "check http_method",
    410: "this endpoint was removed: look for its successor in the API's documentation",
    413: "the request is too large: request less data at once",
    414: "the URL is too long: request less data at once, or use POST",
    422: "the API rejects the value of a parameter: compare the parameters with its documentation",
}


def is_transient(status: int) -> bool:
    """Whether a status is retried by default: 408, 425, 429 and every 5xx."""
    return status >= 500 or status in (408, 425, 429)


def default_action(stream: Stream, response: Response) -> ResponseAction:
    """The action for a response, by its status and the stream's `should_retry`."""
    status = response.status_code
    # A Retry-After date counts here without a comparison with the current time, which comes later.
    if status == 403 and (asks_to_wait(response, 0.0) or _mentions_rate_limit(response)):
        return ResponseAction.THROTTLED
    if stream.should_retry(response):
        ordered = status == 429 or (status == 503 and retry_after(response, 0.0) is not None)
        return ResponseAction.THROTTLED if ordered else ResponseAction.RETRY
    if 200 <= status < 300:
        return ResponseAction.SUCCESS
    return ResponseAction.IGNORE if status == 304 else ResponseAction.FAIL


def should_be_retried(response: Response) -> bool:
    """Whether the API asks for a retry (Stripe does so in a header), otherwise by status."""
    requested = should_retry(response)
    if requested is None or 200 <= response.status_code < 400:
        return is_transient(response.status_code)
    return requested


def _mentions_rate_limit(response: Response) -> bool:
    """Whether the message mentions a rate limit: sometimes GitHub's only sign of a secondary limit."""
    return "rate limit" in (api_message(response) or "").lower()


def refusal_error(stream: Stream, response: Response, *, renewed: bool = False) -> AsyncStreamsError:
    """The error for a response that is not a success."""
    status = response.status_code
    problem = f"answered {status} {_phrase(status)}".rstrip()
    secrets = secrets_of(stream, response)
    if message := api_message(response, secrets):
        problem += f': "{message}"'
    if status == 401 or renewed:
        if stream.authenticator is None:
            hint = "the stream has no authenticator: pass authenticator=TokenAuthenticator(...)"
        else:
            hint = "the API rejects the credential: check that it is complete, still valid, and meant for this API"
        return AuthError(problem, status=status, hint=hint)
    if 300 <= status < 400:
        target = safe_url(response.headers.get("location", ""))
        return HttpStatusError(
            f"{problem}: a redirect to {target!r}, which is not followed",
            status=status,
            hint='set url_base or path to the target, or return {"follow_redirects": True} from request_kwargs',
        )
    if 200 <= status < 300:
        problem += ", which the stream's classify() considers a failure"
    return HttpStatusError(problem, status=status, hint=_HINTS.get(status))


def retry_status_error(stream: Stream, response: Response) -> HttpStatusError:
    """The error of a retryable status, raised if no try is left."""
    problem = f"answered {response.status_code} {_phrase(response.status_code)}".rstrip()
    if message := api_message(response, secrets_of(stream, response)):
        problem += f': "{message}"'
    return HttpStatusError(
        problem, status=response.status_code, hint="the API is failing: start again later, or raise max_tries"
    )


def unexpected_body_error(stream: Stream, response: Response, error: MalformedJSON) -> AsyncStreamsError:
    """The error for a body that is not JSON; an empty body, HTML and a login page get their own errors."""
    body = response.content
    kind = response.headers.get("content-type", "no content type")
    start = body[:_MAX_SNIFF_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n")
    # Scrubbed before it is cut: a secret across the cut would show its first half.
    excerpt = scrub(start.decode("utf-8", "replace"), secrets_of(stream, response))[:_EXCERPT_CHARS]
    if not body:
        return UnexpectedContent(
            f"answered {response.status_code} with an empty body instead of JSON",
            hint="if an empty body means no records, return [] from parse_response for it",
        )
    if start.startswith(b"\x1f\x8b"):
        return UnexpectedContent(f"sent gzip data without a Content-Encoding ({kind})")
    if start.startswith(b"<"):
        if any(mark in body[:20_000].lower() for mark in _LOGIN_MARKS):
            return AuthError(
                f"sent a login page instead of JSON ({kind}): {excerpt!r}",
                status=response.status_code,
                hint="the credential is missing or expired, or url_base is the website and not the API",
            )
        return UnexpectedContent(
            f"sent a page of HTML or XML instead of JSON ({kind}): {excerpt!r}",
            hint="check that url_base is the API and not its website; otherwise parse the body in parse_response",
        )
    error.args = (f"{error.message} ({kind}); it begins with {excerpt!r}",)
    if "ndjson" in kind or "jsonl" in kind or b"}\n{" in body[:_MAX_SNIFF_BYTES]:
        error.hint = (
            "the body is JSON Lines: write `async for record in ndjson(response): yield record` in parse_response"
        )
    return error


def secrets_of(stream: Stream, response: Response) -> set[str]:
    """Every secret that a response to this request might echo."""
    return {*sent_secrets(response.request), *held_secrets(stream.authenticator)} - {""}


def api_message(response: Response, secrets: Iterable[str] = ()) -> str | None:
    """The error message of the API: title and detail of RFC 9457, or the value of a common key."""
    if not response.has_body:
        return None
    try:
        body = decode(response.content[:MAX_ERROR_BODY_BYTES])
    except MalformedJSON:
        return None
    text = ", ".join(dict.fromkeys(_texts(body)))
    return scrub(" ".join(text.split()), secrets)[: _EXCERPT_CHARS + 100] or None


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth > _MAX_DEPTH:
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
