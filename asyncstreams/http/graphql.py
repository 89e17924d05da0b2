"""Errors of GraphQL in responses with a status of success."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

import httpx

from .._json import as_array, as_object, decode
from ..errors import MalformedJSON
from ..messages import Response
from ..rate_limits.throttle_reasons import is_throttle_reason, mentions_throttling

GraphqlError = dict[str, Any]
_METADATA = frozenset(("errors", "extensions"))


def graphql_errors(response: Response) -> Sequence[GraphqlError]:
    """The errors of a GraphQL response; empty for other responses.

    The request is a POST whose body has a string `query` or a persisted query, or is of the type application/graphql;
    `errors` is an array of objects with a `message`. The body must have been read completely. Raises MalformedJSON.
    """
    request = response.request
    # Searches for bytes, so that a page without errors costs next to nothing.
    if request.method != "POST" or not response.has_body or not _may_be_graphql(request):
        return ()
    return errors_in(response.json()) if b"errors" in response.content and is_graphql(request) else ()


def is_graphql(request: httpx.Request) -> bool:
    """Whether a request is one of GraphQL."""
    sent: bytes = getattr(request, "_content", b"")
    return request.method == "POST" and (_has_query(sent) or _is_graphql_text(request))


def errors_in(body: Any) -> Sequence[GraphqlError]:
    """The errors in the decoded body of a response to a GraphQL request; empty if there are none."""
    fields = as_object(body)
    errors = as_array(fields.get("errors")) if fields is not None else None
    objects = [error for value in errors or () if (error := as_object(value)) is not None]
    if not objects or not all(isinstance(error.get("message"), str) for error in objects):
        return ()
    return objects if len(objects) == len(errors or ()) else ()


def has_partial_data(body: Any) -> bool:
    """Whether a GraphQL response, decoded, has data beside its errors: not all of its fields are null."""
    fields = as_object(body) or {}
    if "data" not in fields:
        return bool(fields.keys() - _METADATA)
    data = as_object(fields["data"])
    return fields["data"] is not None if data is None else any(value is not None for value in data.values())


def is_throttled(errors: Sequence[GraphqlError]) -> bool:
    """Whether a GraphQL error says that too many requests were sent, as Shopify's THROTTLED."""
    return any(
        is_throttle_reason((as_object(error.get("extensions")) or {}).get("code"))
        or is_throttle_reason(error.get("type"))
        or is_throttle_reason(error.get("code"))
        or mentions_throttling(error["message"])
        for error in errors
    )


def _may_be_graphql(request: httpx.Request) -> bool:
    """Whether a POST may be one of GraphQL, by a look at its bytes."""
    sent: bytes = getattr(request, "_content", b"")
    return b"query" in sent or b"persistedQuery" in sent or (not sent.startswith(b'{"') and _is_graphql_text(request))


def _has_query(body: bytes) -> bool:
    """Whether a request body, as JSON or as a form, has a string `query` or names a persisted one."""
    if b"query" not in body and b"persistedQuery" not in body:
        return False
    if not body.lstrip().startswith(b"{"):
        return "query" in parse_qs(body.decode("utf-8", "replace"))
    try:
        fields = as_object(decode(body))
    except MalformedJSON:
        return False
    if fields is None:
        return False
    return isinstance(fields.get("query"), str) or "persistedQuery" in (as_object(fields.get("extensions")) or {})


def _is_graphql_text(request: httpx.Request) -> bool:
    content_type: str = request.headers.get("content-type", "")
    return content_type.lower().startswith("application/graphql")
