"""Records at a dotted path of a JSON body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from .._json import as_array, as_object, json_type_name
from ..content.error_text import shown_keys
from ..errors import UnexpectedContent
from ..models import Record
from ..protocols import MissingRecords
from .selectors import ABSENT, select_path

_MISSING_HINT = 'If the key is missing where there are no records, set missing_records = "empty"'
_ERROR_KEYS = frozenset(("errors", "error", "messages", "warnings", "failures"))


def records_at(path: str | None, body: Any, class_name: str, missing: MissingRecords = "error") -> list[Record]:
    """The array of objects at a path of records; None is the body itself. Raises UnexpectedContent if there is none.

    A null is no records, and with `missing` "empty" a missing key is, too, unless the body reports an error.
    """
    value = body if path is None else select_rows(path, body, skips_missing=missing == "empty")
    if (array := as_array(value)) is not None:
        if set(map(type, array)) <= {dict}:
            return array
        index = next(index for index, item in enumerate(array) if type(item) is not dict)
        kind = json_type_name(array[index])
        raise UnexpectedContent(
            f"sent an array whose item {index} is a JSON {kind}, not an object",
            hint=f"override {class_name}.parse_response",
        )
    where = "where the body should be an array" if path is None else f"at records_path = {path!r}"
    fields = as_object(body)
    # PHP writes an empty object as an empty array.
    if value is None or (value is ABSENT and missing == "empty" and (fields is not None or body == [])):
        reported = next((key for key in ("error", "errors") if fields and fields.get(key)), None)
        if reported is None:
            return []
        raise UnexpectedContent(
            f"sent {'null' if value is None else 'nothing'} {where}, and {reported!r}",
            hint=f"return ResponseAction.FAIL from {class_name}.classify for such a response",
        )
    sent = "nothing" if value is ABSENT else f"a JSON {json_type_name(value)}"
    raise UnexpectedContent(f"sent {sent} {where}", hint=_record_path_hint(class_name, body, path, value))


def select_rows(path: str, body: Any, *, skips_missing: bool = False) -> Any:
    """The value at a path of records, which should be an array; None for a null on the path, ABSENT for a missing key.

    A step `*` stands for all items of an array or all values of an object: the arrays below it are joined, and after
    a last `*` objects are single rows. A last `$` makes the object at the path a row, below a `*` each of them. With
    `skips_missing`, a key that is missing below a `*` is left out.
    """
    fields = as_object(body)
    if fields is not None and path in fields:
        return fields[path]
    parts, is_single = _parse(path)
    value = _select(parts, body, is_single=is_single, skips_missing=skips_missing)
    return value if not is_single or as_object(value) is None else [value]


def rows_container(path: str, body: Any) -> Any:
    """The innermost value on a path of records that contains all rows."""
    fields = as_object(body)
    if fields is not None and path in fields:
        return fields[path]
    first = _parse(path)[0][0]
    return select_path(first, body) if first else body


@lru_cache(maxsize=256)
def _parse(path: str) -> tuple[tuple[str, ...], bool]:
    """The paths between the `*` of a path, of which the first and the last may be empty; whether it ends in `$`."""
    parts: list[list[str]] = [[]]
    steps = path.split(".")
    is_single = steps[-1] == "$"
    for step in steps[:-1] if is_single else steps:
        if step == "*":
            parts.append([])
        else:
            parts[-1].append(step)
    return tuple(map(".".join, parts)), is_single


def _select(parts: Sequence[str], value: Any, *, is_single: bool, skips_missing: bool) -> Any:
    first, *rest = parts
    if first:
        selected = select_path(first, value, ABSENT)
        if selected is ABSENT:
            return _null_or_absent(first, value)
        value = selected
    items = as_array(value)
    if items is None and (fields := as_object(value)) is not None:
        items = list(fields.values())
    if not rest or items is None:
        return value
    rows: list[Any] = []
    for item in items:
        found = _select(rest, item, is_single=is_single, skips_missing=skips_missing)
        if (array := as_array(found)) is not None:
            rows += array
        elif (is_single or rest == [""]) and as_object(found) is not None:
            rows.append(found)
        elif not (found is None or (found is ABSENT and skips_missing)):
            return found
    return rows


def _null_or_absent(path: str, value: Any) -> Any:
    """None if a value on the path to a missing one is null, such as that of its object; otherwise ABSENT."""
    outer = path
    while "." in outer or "[" in outer:
        outer = outer[: max(outer.rfind("."), outer.rfind("["))]
        found = select_path(outer, value, ABSENT) if outer else value
        if found is not ABSENT:
            return None if found is None else ABSENT
    return None if value is None else ABSENT


def _record_path_hint(class_name: str, body: Any, path: str | None, value: Any) -> str:
    may_be_missing = value is ABSENT and path is not None
    if path is not None and "[*]" in path:
        return f"write records_path = {path.replace('[*]', '.*').removeprefix('.')!r}"
    if as_array(body) is not None and path is not None and "*" not in path:
        empty = "" if body else f". {_MISSING_HINT}"
        return f"remove records_path: the body itself is the array{empty}"
    fields = as_object(body)
    if fields is None:
        return f"override {class_name}.parse_response"
    if path is not None and (hint := _hint_at_step(path, body, value)):
        return hint
    arrays = _keys_of_arrays(fields)
    if arrays and set(arrays) <= _ERROR_KEYS:
        return f"the body has {arrays[0]!r}: return ResponseAction.FAIL from {class_name}.classify for such a response"
    if arrays := [key for key in arrays if key not in _ERROR_KEYS]:
        more = f" (or {', '.join(map(repr, arrays[1:]))})" if arrays[1:] else ""
        return f"set records_path = {arrays[0]!r}{more}"
    hint = (
        f"set records_path; the keys of the body are {shown_keys(fields)}" if fields else "the body is an empty object"
    )
    hint += '. If the body is a single record, set records_path = "$"'
    return f"{hint}. {_MISSING_HINT}" if may_be_missing else hint


def _keys_of_arrays(fields: Mapping[str, Any]) -> list[str]:
    """The keys of the arrays of objects."""
    return [key for key, value in fields.items() if (items := as_array(value)) and isinstance(items[0], dict)]


def _hint_at_step(path: str, body: Any, value: Any) -> str:
    """The hint at an object in place of the array, or at an array on the way to it; empty for anything else."""
    if (fields := as_object(value)) is not None:
        if arrays := _keys_of_arrays(fields):
            return f"set records_path = {f'{path}.{arrays[0]}'!r}"
        return f"if this object is one record, set records_path = {path + '.$'!r}; if its values are, {path + '.*'!r}"
    if "*" in path:
        return f"check the steps after *. {_MISSING_HINT}" if value is ABSENT else ""
    steps = path.split(".")
    for count in range(1, len(steps)):
        outer = ".".join(steps[:count])
        if as_array(select_path(outer, body)) is not None:
            inner = ".".join([outer, "*", *steps[count:]])
            return f"{outer!r} is an array: its items are the records of {outer!r}; what is below them is {inner!r}"
    return ""
