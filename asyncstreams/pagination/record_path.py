"""Records at a dotted path of a JSON body."""

from __future__ import annotations

from typing import Any

from .._json import as_array, as_object, json_type_name
from ..content.error_text import shown_keys
from ..errors import UnexpectedContent
from ..models import Record
from .selectors import select_path

_ERROR_KEYS = frozenset(("errors", "error", "messages", "warnings", "failures"))


def records_at(path: str | None, body: Any, class_name: str) -> list[Record]:
    """The array of objects at a dotted path; None is the body itself. Raises UnexpectedContent if there is none."""
    value = body if path is None else select_path(path, body)
    if (array := as_array(value)) is not None:
        if set(map(type, array)) <= {dict}:
            return array
        index = next(index for index, item in enumerate(array) if type(item) is not dict)
        kind = json_type_name(array[index])
        raise UnexpectedContent(
            f"sent an array whose item {index} is a JSON {kind}, not an object",
            hint=f"override {class_name}.parse_response",
        )
    sent = "nothing" if value is None else f"a JSON {json_type_name(value)}"
    where = "where the body should be an array" if path is None else f"at records_path = {path!r}"
    raise UnexpectedContent(f"sent {sent} {where}", hint=_record_path_hint(class_name, body, path))


def _record_path_hint(class_name: str, body: Any, path: str | None) -> str:
    if as_array(body) is not None and path is not None:
        return "remove records_path: the body itself is the array"
    fields = as_object(body)
    if fields is None:
        return f"override {class_name}.parse_response"
    arrays = [key for key, value in fields.items() if (items := as_array(value)) and isinstance(items[0], dict)]
    if arrays and set(arrays) <= _ERROR_KEYS:
        return f"the body has {arrays[0]!r}: return ResponseAction.FAIL from {class_name}.classify for such a response"
    if arrays := [key for key in arrays if key not in _ERROR_KEYS]:
        more = f" (or {', '.join(map(repr, arrays[1:]))})" if arrays[1:] else ""
        return f"set records_path = {arrays[0]!r}{more}"
    return (
        f"set records_path; the keys of the body are {shown_keys(fields)}. If the body is a single record, "
        f"return [response.json()] from {class_name}.parse_response"
    )
