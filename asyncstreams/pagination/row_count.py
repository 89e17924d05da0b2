"""Number of rows that an API sent on a page, whatever `parse_response` made of them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from .._json import as_array, as_object
from ..errors import UnexpectedContent
from ..messages import Response
from .record_path import select_rows
from .selectors import ABSENT

_MAX_DEPTH = 3
_MAX_CANDIDATES = 5


def find_rows(path: str | None, response: Response) -> list[Any] | dict[str, Any] | None:
    """The array or mapping of rows at `records_path`, or the body itself if that is an array.

    An absent or null value is an empty array if the body contains nothing that may be the rows. None if the rows
    are not at that place, or if the body is not JSON.
    """
    body = json_body(response)
    if path is None:
        return as_array(body)
    value = select_rows(path, body)
    if value is ABSENT:
        is_empty = body == [] if as_object(body) is None else not any(array_lengths(body))
        return [] if is_empty else None
    if (array := as_array(value)) is not None:
        return array
    return [] if value is None else as_object(value)


def json_body(response: Response) -> Any:
    """The decoded body; None if it is not JSON, or still arriving."""
    if response.decoded_json is None and response.has_body:
        with suppress(UnexpectedContent):
            return response.json()
    return response.decoded_json


def candidate_paths(body: Any) -> list[str]:
    """The paths of a body at which rows may be: its arrays, the longest first, at most five."""
    found: list[tuple[int, str]] = []
    _collect_arrays(body, "", found)
    return [path for _, path in sorted(found, key=lambda entry: -entry[0])[:_MAX_CANDIDATES]]


def array_lengths(body: Any) -> set[int]:
    """The lengths of the arrays of a body at which rows may be."""
    found: list[tuple[int, str]] = []
    _collect_arrays(body, "", found)
    return {length for length, _ in found}


def _collect_arrays(value: Any, at: str, found: list[tuple[int, str]], depth: int = 0) -> None:
    for key, item in (as_object(value) or {}).items():
        where = f"{at}.{key}" if at else key
        if (items := as_array(item)) is not None:
            found.append((len(items), where))
        elif depth < _MAX_DEPTH:
            _collect_arrays(item, where, found, depth + 1)
