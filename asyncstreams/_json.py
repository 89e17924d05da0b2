"""Strict, lossless JSON: integers of any size stay exact, and values without a JSON form are rejected."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard, cast

import msgspec
import orjson

from .errors import MalformedJSON

_BOM = b"\xef\xbb\xbf"

JSON_TYPE_NAMES = {
    "dict": "object",
    "list": "array",
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "NoneType": "null",
}

# msgspec decodes as fast as orjson and keeps integers beyond 64 bits, which orjson silently turns
# into floats. orjson only explains failures.
_decoder = msgspec.json.Decoder()
_literal_decoder = msgspec.json.Decoder(float_hook=str)
_encoder = msgspec.json.Encoder()
_canonical_encoder = msgspec.json.Encoder(order="sorted")


def decode(body: bytes) -> Any:
    """Decode one JSON text (RFC 8259); a byte order mark is skipped.

    Raises MalformedJSON, with the byte offset if known. NaN, Infinity, numbers beyond the range of a double,
    lone surrogates and trailing text are malformed.
    """
    text = body[len(_BOM) :] if body.startswith(_BOM) else body
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        failure = _parse_failure(body, text, error)
    # Raised outside the handler: a UnicodeDecodeError holds the whole body.
    raise failure


def decode_lines(block: bytes) -> list[Any]:
    """Decode newline-delimited JSON, one value per line; blank lines are skipped. Raises MalformedJSON."""
    return [decode(line) for line in block.split(b"\n") if line.strip()]


def decode_literals(body: bytes) -> Any:
    """Decode a body that `decode` accepts, with numbers that are not integers as their literal text."""
    return _literal_decoder.decode(body)


def encode(value: Any) -> bytes:
    """Encode as compact JSON. Integers of any size stay exact; dates, decimals and bytes become strings.

    Raises TypeError for NaN, for the infinities, and for objects without a JSON form.
    """
    return _check_finite(_encoder.encode(value), value)


def encode_with(value: Any, to_builtin: Callable[[Any], Any]) -> bytes:
    """Like `encode`, with `to_builtin` for objects without a JSON form; it raises TypeError for those it refuses."""
    return encode(msgspec.to_builtins(value, enc_hook=to_builtin))


def encode_lines(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Encode objects as newline-delimited JSON; the last line ends with a newline, too. Raises TypeError."""
    text = _encoder.encode_lines(records)
    # msgspec encodes NaN and the infinities as null: as many nulls as Nones means that there were none.
    if b"null" in text and text.count(b"null") != _count_nones(records):
        _reject_non_finite(records)
    return text


def _count_nones(records: Sequence[Mapping[str, Any]]) -> int:
    """Number of top-level values that are None. Two loops, since `count` would compare by value."""
    nones = 0
    for record in records:
        for value in record.values():
            if value is None:
                nones += 1
    return nones


def encode_canonical(value: Any) -> bytes:
    """Encode with sorted names, so that equal values have equal JSON. Raises TypeError."""
    return _check_finite(_canonical_encoder.encode(value), value)


def as_object(value: Any) -> dict[str, Any] | None:
    """The value if it is a JSON object, otherwise None."""
    untyped: Any = value  # cheaper than a cast
    return untyped if isinstance(value, dict) else None


def as_array(value: Any) -> list[Any] | None:
    """The value if it is a JSON array, otherwise None."""
    return value if _is_array(value) else None


def json_type_name(value: Any) -> str:
    """The JSON name of the value's type; the Python name for a type without one."""
    name = type(value).__name__
    return JSON_TYPE_NAMES.get(name, name)


def _is_array(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _check_finite(text: bytes, value: Any) -> bytes:
    """Return `text`, the JSON of `value`. Raises TypeError if a number in it is not finite."""
    if b"null" in text:
        _reject_non_finite((value,))
    return text


def _reject_non_finite(values: Iterable[Any]) -> None:
    """Raise TypeError for NaN and the infinities, which msgspec silently encodes as null."""
    for value in values:
        if isinstance(value, float):
            if not math.isfinite(value):
                raise TypeError(f"JSON has no number for {value}")
        elif (fields := as_object(value)) is not None:
            _reject_non_finite(fields.values())
        elif isinstance(value, list | tuple):
            _reject_non_finite(cast(Sequence[Any], value))
        elif value is not None and not isinstance(value, str | int | msgspec.Raw):
            plain = msgspec.to_builtins(value)
            if type(plain) is not type(value):
                _reject_non_finite((plain,))


def _parse_failure(body: bytes, text: bytes, error: Exception) -> MalformedJSON:
    """The error with reason and byte offset in `body`; `text` is the body without its byte order mark."""
    offset: int | None = None
    reason = str(error)
    try:
        text.decode()
        orjson.loads(text)
    except UnicodeDecodeError as unicode_error:
        offset, reason = unicode_error.start, f"not UTF-8 ({unicode_error.reason})"
    except orjson.JSONDecodeError as json_error:
        # orjson counts characters.
        offset = len(json_error.doc[: json_error.pos].encode("utf-8", "surrogatepass"))
        reason = json_error.msg
    if offset is None:
        return MalformedJSON(f"sent JSON that is malformed: {reason}")
    offset += len(body) - len(text)
    return MalformedJSON(f"sent JSON that is malformed at byte {offset} of {len(body)}: {reason}", offset=offset)
