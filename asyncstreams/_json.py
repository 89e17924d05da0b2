"""Strict, lossless JSON: integers of any size stay exact, and values without a JSON form are rejected."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard, cast

import msgspec
import orjson

from .errors import MalformedJSON

_BOM = b"\xef\xbb\xbf"
# A pair of escapes, half a pair in the group, or any other escape.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
SURROGATES_HINT = (
    'pass surrogates="replace" to the destination to write U+FFFD for lone surrogates, or repair them in parse_response'
)
_TOO_DEEP = "objects or arrays are nested too deeply"

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


def decode_repaired(
    text: bytes, repair: Callable[[bytes], bytes | None], decode: Callable[[bytes], Any] = decode
) -> Any:
    """Decode a text, and if that fails the text that `repair` makes of it. Raises MalformedJSON."""
    try:
        return decode(text)
    except MalformedJSON:
        if (repaired := repair(text)) is None:
            raise
    return decode(repaired)


def decode_lines(block: bytes) -> list[Any]:
    """Decode newline-delimited JSON, one value per line; blank lines are skipped. Raises MalformedJSON."""
    return [decode(line) for line in block.split(b"\n") if line.strip()]


def decode_literals(body: bytes) -> Any:
    """Decode a body that `decode` accepts, with numbers that are not integers as their literal text."""
    return _literal_decoder.decode(body)


class ValueWithoutJSON(TypeError):
    """A value has no form in JSON, although others of its type have one: NaN, or objects that are nested too deeply."""


class LoneSurrogate(ValueWithoutJSON):
    """A text contains half of a surrogate pair, such as half an emoji, and so has no form in UTF-8."""

    def __init__(self) -> None:
        super().__init__("a text contains a lone surrogate, such as half an emoji")


def has_lone_surrogate(value: Any) -> bool:
    """Whether a value cannot be encoded because of a lone surrogate."""
    try:
        encode(value)
    except LoneSurrogate:
        return True
    except TypeError:
        return bool(replace_surrogates(value) != value)
    return False


def replace_surrogates(value: Any) -> Any:
    """A copy of a value whose texts have U+FFFD in place of each lone surrogate."""
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\ufffd", value)
    if (fields := as_object(value)) is not None:
        return {replace_surrogates(name): replace_surrogates(inner) for name, inner in fields.items()}
    if isinstance(value, list | tuple):
        return [*map(replace_surrogates, cast(Sequence[Any], value))]
    return value


def replace_escaped_surrogates(text: bytes) -> bytes:
    """A JSON text with `\\ufffd` in place of each escape of a lone surrogate."""
    return _ESCAPE.sub(lambda match: match[0] if match[1] is None else rb"\ufffd", text)


def encode(value: Any) -> bytes:
    """Encode as compact JSON. Integers of any size stay exact; dates, decimals and bytes become strings.

    Raises ValueWithoutJSON for NaN, for the infinities, and for values that are nested too deeply; LoneSurrogate for
    such a text; another TypeError for objects without a JSON form.
    """
    return _check_finite(_encode(_encoder.encode, value), value)


def encode_with(value: Any, to_builtin: Callable[[Any], Any]) -> bytes:
    """Like `encode`, with `to_builtin` for objects without a JSON form; it raises TypeError for those it refuses."""
    return encode(msgspec.to_builtins(value, enc_hook=to_builtin))


def encode_lines(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Encode objects as newline-delimited JSON; the last line ends with a newline, too. Raises TypeError."""
    text = _encode(_encoder.encode_lines, records)
    # msgspec encodes NaN and the infinities as null: as many nulls as Nones means that there were none.
    if b"null" in text and text.count(b"null") != _count_nones(records):
        _check_numbers(records)
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
    return _check_finite(_encode(_canonical_encoder.encode, value), value)


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


def _encode(encoder: Callable[[Any], bytes], value: Any) -> bytes:
    try:
        return encoder(value)
    except UnicodeEncodeError:
        pass
    except RecursionError:
        raise ValueWithoutJSON(_TOO_DEEP) from None
    raise LoneSurrogate  # outside the handler: a UnicodeEncodeError holds the whole text


def _check_finite(text: bytes, value: Any) -> bytes:
    """Return `text`, the JSON of `value`. Raises TypeError if a number in it is not finite."""
    if b"null" in text:
        _check_numbers((value,))
    return text


def _check_numbers(values: Iterable[Any]) -> None:
    """Raise ValueWithoutJSON for NaN, for the infinities, and for values that are nested too deeply to be checked."""
    try:
        _reject_non_finite(values)
    except RecursionError:
        raise ValueWithoutJSON(_TOO_DEEP) from None


def _reject_non_finite(values: Iterable[Any]) -> None:
    """Raise ValueWithoutJSON for NaN and the infinities, which msgspec silently encodes as null."""
    for value in values:
        if isinstance(value, float):
            if not math.isfinite(value):
                raise ValueWithoutJSON(f"JSON has no number for {value}")
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
    hint: str | None = None
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
        if "surrogate" in reason and replace_escaped_surrogates(text) != text:
            reason, hint = "lone surrogate, such as half an emoji", SURROGATES_HINT
    if offset is None:
        return MalformedJSON(f"sent JSON that is malformed: {reason}")
    offset += len(body) - len(text)
    where = f"at byte {offset} of {len(body)}"
    return MalformedJSON(f"sent JSON that is malformed {where}: {reason}", offset=offset, hint=hint)
