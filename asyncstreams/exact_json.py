"""How is JSON read without losing anything: strictly, and with integers of any size exact."""

from __future__ import annotations

from typing import Any, TypeGuard, cast

import msgspec
import orjson

from .errors import MalformedJSON

_BOM = b"\xef\xbb\xbf"

# msgspec decodes as fast as orjson and keeps integers beyond 64 bits, which orjson turns into
# floats without a word; orjson is asked only where a failure must be explained.
_decoder = msgspec.json.Decoder()


def decode(body: bytes) -> Any:
    """The value of one JSON text; a byte order mark is skipped.

    Raises MalformedJSON, with the byte offset where known: also for NaN and Infinity, for
    numbers beyond a double's range, lone surrogates and text that follows the value.
    """
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        if body.startswith(_BOM):
            return decode(body[len(_BOM) :])
        raise _explained(body, error) from None


def decode_lines(block: bytes) -> list[Any]:
    """The values of newline-delimited JSON; blank lines are skipped. Raises MalformedJSON."""
    try:
        return _decoder.decode_lines(block)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        # Only now line by line, so that the error can name the line's own position.
        return [decode(line) for line in block.splitlines() if line.strip()]


def encode(value: Any) -> bytes:
    """Compact JSON; integers of any size stay exact. Raises TypeError for what JSON lacks."""
    return msgspec.json.encode(value)


def as_object(value: Any) -> dict[str, Any] | None:
    """The value, if it is a JSON object."""
    return cast(dict[str, Any], value) if isinstance(value, dict) else None


def as_array(value: Any) -> list[Any] | None:
    """The value, if it is a JSON array."""
    return value if _is_array(value) else None


def _is_array(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _explained(body: bytes, error: Exception) -> MalformedJSON:
    offset: int | None = None
    reason = str(error)
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as theirs:
        # orjson counts characters of what it could read as UTF-8.
        offset = len(theirs.doc[: theirs.pos].encode("utf-8", "surrogatepass"))
        reason = theirs.msg
    at = "" if offset is None else f" at byte {offset} of {len(body)}"
    return MalformedJSON(f"sent JSON that is malformed{at}: {reason}", offset=offset)
