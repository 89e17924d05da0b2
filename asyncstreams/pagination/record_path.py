"""Where in a body are the records, if the author does not say it in code?"""

from __future__ import annotations

from typing import Any

from .._json import as_array, as_object, json_name
from ..errors import UnexpectedContent
from ..models import Record
from .selectors import select_path


def records_at(path: str | None, body: Any, owner: str) -> list[Record]:
    """The array of objects at a dotted path, or the body itself. Raises UnexpectedContent where there is none."""
    found = body if path is None else select_path(path, body)
    if (array := as_array(found)) is not None:
        if set(map(type, array)) <= {dict}:
            return array
        other = next(number for number, item in enumerate(array) if type(item) is not dict)
        kind = json_name(array[other])
        raise UnexpectedContent(
            f"sent an array whose item {other} is of type {kind}, where objects should be",
            hint=f"override {owner}.parse_response",
        )
    told = "nothing" if found is None else f"a JSON {json_name(found)}"
    where = "where the body should be an array" if path is None else f"at records_path = {path!r}"
    raise UnexpectedContent(f"sent {told} {where}", hint=_where_arrays_are(owner, body, path))


def _where_arrays_are(owner: str, body: Any, path: str | None) -> str:
    if as_array(body) is not None and path is not None:
        return "the body itself is the array: remove records_path"
    fields = as_object(body)
    if fields is None:
        return f"override {owner}.parse_response"
    arrays = [key for key, value in fields.items() if (items := as_array(value)) and isinstance(items[0], dict)]
    if arrays:
        more = f" (or {', '.join(map(repr, arrays[1:]))})" if arrays[1:] else ""
        return f"set records_path = {arrays[0]!r}{more}"
    return (
        f"the body is an object with the keys {', '.join(sorted(fields)[:20])}: set records_path, or, for a single "
        f"record, return [response.json()] from {owner}.parse_response"
    )
