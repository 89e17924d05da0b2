"""How is JSON read without losing anything: strictly, and with integers of any size exact."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard, cast

import msgspec
import orjson

from .errors import MalformedJSON

_BOM = b"\xef\xbb\xbf"

JSON_NAMES = {
    "dict": "object",
    "list": "array",
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "NoneType": "null",
}

# msgspec decodes as fast as orjson and keeps integers beyond 64 bits, which orjson turns into
# floats without a word; orjson is asked only where a failure must be explained.
_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()
_canonical_encoder = msgspec.json.Encoder(order="sorted")


def decode(body: bytes) -> Any:
    """The value of one JSON text; a byte order mark is skipped.

    Raises MalformedJSON, with the byte offset where known: also for NaN and Infinity, for
    numbers beyond a double's range, lone surrogates and text that follows the value.
    """
    text = body[len(_BOM) :] if body.startswith(_BOM) else body
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        failure = _explained(body, text, error)
    # Raised outside the handler: a UnicodeDecodeError holds the whole body.
    raise failure


def decode_lines(block: bytes) -> list[Any]:
    """The values of newline-delimited JSON, one in each line; blank lines are skipped. Raises MalformedJSON."""
    return [decode(line) for line in block.split(b"\n") if line.strip()]


def encode(value: Any) -> bytes:
    """Compact JSON; integers of any size stay exact. Dates, decimals and bytes become strings.

    Raises TypeError for NaN, for the infinities, and for objects that have no form in JSON.
    """
    return _finite(_encoder.encode(value), value)


def encode_lines(records: Sequence[Mapping[str, Any]]) -> bytes:
    """The same for many objects, one in each line, each with its end."""
    text = _encoder.encode_lines(records)
    # Where there are as many nulls as the objects have Nones, none of them was a number.
    if b"null" in text and text.count(b"null") != _nones(records):
        _refuse_not_finite(records)
    return text


def _nones(records: Sequence[Mapping[str, Any]]) -> int:
    """How many of the values are None; two loops, since `count` would compare each with it by value."""
    found = 0
    for record in records:
        for value in record.values():
            if value is None:
                found += 1
    return found


def canonical(value: Any) -> bytes:
    """JSON that is the same for equal values, whatever the order of their names."""
    return _finite(_canonical_encoder.encode(value), value)


def as_object(value: Any) -> dict[str, Any] | None:
    """The value, if it is a JSON object."""
    found: Any = value  # which costs less than a cast
    return found if isinstance(value, dict) else None


def as_array(value: Any) -> list[Any] | None:
    """The value, if it is a JSON array."""
    return value if _is_array(value) else None


def json_name(value: Any) -> str:
    """What JSON calls a value of this kind; what is none of JSON's has Python's name."""
    kind = type(value).__name__
    return JSON_NAMES.get(kind, kind)


def _is_array(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _finite(text: bytes, value: Any) -> bytes:
    """The text of a value, all of whose numbers have a form in JSON."""
    if b"null" in text:
        _refuse_not_finite((value,))
    return text


def _refuse_not_finite(values: Iterable[Any]) -> None:
    """msgspec writes what JSON has no number for as null, and says nothing."""
    for value in values:
        if isinstance(value, float):
            if not math.isfinite(value):
                raise TypeError(f"JSON has no number for {value}")
        elif (fields := as_object(value)) is not None:
            _refuse_not_finite(fields.values())
        elif isinstance(value, list | tuple):
            _refuse_not_finite(cast(Sequence[Any], value))
        elif value is not None and not isinstance(value, str | int):
            plain = msgspec.to_builtins(value)
            if type(plain) is not type(value):
                _refuse_not_finite((plain,))


def _explained(body: bytes, text: bytes, error: Exception) -> MalformedJSON:
    """Why and where; the offset counts in `body`, `text` is what follows its byte order mark."""
    offset: int | None = None
    reason = str(error)
    try:
        text.decode()
        orjson.loads(text)
    except UnicodeDecodeError as theirs:
        offset, reason = theirs.start, f"not UTF-8 ({theirs.reason})"
    except orjson.JSONDecodeError as theirs:
        # orjson counts characters.
        offset = len(theirs.doc[: theirs.pos].encode("utf-8", "surrogatepass"))
        reason = theirs.msg
    if offset is None:
        return MalformedJSON(f"sent JSON that is malformed: {reason}")
    offset += len(body) - len(text)
    return MalformedJSON(f"sent JSON that is malformed at byte {offset} of {len(body)}: {reason}", offset=offset)
