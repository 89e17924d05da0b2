"""Incremental scanner for the items of one array in a JSON text.

ijson does not fit: with native floats it rejects integers beyond 64 bits, and it replaces lone
surrogates silently.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .. import _json
from ..errors import MalformedJSON, UnexpectedContent
from ..pagination.selectors import ABSENT, select_path

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|["{}\[\],:]', re.DOTALL)
_MAX_ITEM_BYTES = 16 * 2**20


class PathsOutside:
    """The paths of a JSON text whose values neither are, contain nor are contained in the array at `path`."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __contains__(self, path: object) -> bool:
        if not isinstance(path, str) or not self._path:
            return False
        outer, inner = sorted((path, self._path), key=len)
        return outer != inner and not inner.startswith((f"{outer}.", f"{outer}["))


class ItemScanner:
    """Extracts the items of the array at `path`, and decodes the items of one piece in one call.

    The rest of the text, the skeleton, is kept and decoded at the end. Thus the complete text is
    checked, while the items are not held in memory. `on_rest` receives the decoded skeleton at the end.
    """

    def __init__(
        self, path: str, repair: Callable[[bytes], bytes | None], on_rest: Callable[[Any], None] | None = None
    ) -> None:
        self._repair, self._on_rest = repair, on_rest
        self._skeleton = _Skeleton(path)
        self._buffer: bytes = b""
        self._pieces: list[bytes] = []
        self._pending_size = 0
        # Inside the array: the number of commas between items so far, and the buffer size at which
        # the next scan starts, so that one long item is not scanned again with each piece.
        self._in_array = False
        self._commas = 0
        self._rescan_size = 0

    def feed(self, piece: bytes) -> list[Any]:
        """The items that end in this piece. Raises MalformedJSON, UnexpectedContent."""
        self._pieces.append(piece)
        self._pending_size += len(piece)
        if len(self._buffer) + self._pending_size > _MAX_ITEM_BYTES + len(piece):
            raise UnexpectedContent(f"sent JSON with an item of more than {_MAX_ITEM_BYTES:,} bytes")
        if self._in_array and len(self._buffer) + self._pending_size < self._rescan_size:
            return []
        return self._scan()

    def finish(self) -> list[Any]:
        """The remaining items. Raises MalformedJSON, or UnexpectedContent if there was no array."""
        self._rescan_size = 0
        items = self._scan()
        if self._in_array:
            raise MalformedJSON("sent JSON that ends within its array: the body is truncated")
        self._skeleton.add(self._buffer)
        rest = self._skeleton.decode(self._repair)
        if self._on_rest is not None:
            self._on_rest(rest)
        self._skeleton.check_array(rest)
        return items

    def _scan(self) -> list[Any]:
        self._buffer = b"".join((self._buffer, *self._pieces))
        self._pieces, self._pending_size = [], 0
        items: list[Any] = []
        progressed = True
        while progressed:
            if self._in_array:
                progressed = self._scan_items(items)
            else:
                end, progressed = self._skeleton.scan(self._buffer)
                self._buffer, self._in_array = self._buffer[end:], progressed
        return items

    def _scan_items(self, items: list[Any]) -> bool:
        """Decode up to the last comma between items; true if the array ended."""
        buffer, depth, cut, commas = self._buffer, 0, 0, self._commas
        self._rescan_size = 0
        for match in _TOKEN.finditer(buffer):
            token = match.group()
            if len(token) > 1:
                continue
            if token == b'"':
                break
            if token in b"{[":
                depth += 1
            elif token in b"}]":
                if depth == 0:
                    self._end_array(items, buffer[:cut], buffer[cut : match.start()], commas)
                    self._buffer = buffer[match.start() :]
                    self._in_array = False
                    return True
                depth -= 1
            elif token == b"," and depth == 0:
                cut = match.end()
                commas += 1
        if cut:
            complete = buffer[: cut - 1]
            if not complete.strip():
                raise MalformedJSON("sent malformed JSON: a comma without an item before it")
            items.extend(self._decode_items(complete))
            self._buffer, self._commas = buffer[cut:], commas
        else:
            self._rescan_size = 2 * len(buffer)
        return False

    def _end_array(self, items: list[Any], complete: bytes, last: bytes, commas: int) -> None:
        if commas and not last.strip():
            raise MalformedJSON("sent malformed JSON: a comma before the end of an array")
        if text := complete + last:
            items.extend(self._decode_items(text))
        self._commas = 0

    def _decode_items(self, text: bytes) -> list[Any]:
        try:
            items: list[Any] = _json.decode_repaired(b"[" + text + b"]", self._repair)
        except MalformedJSON as error:
            # The offset of the error is relative to this piece, and is removed.
            problem = error.message.partition(" at byte")[0]
            raise MalformedJSON(f"{problem}, among the items of an array", hint=error.hint) from None
        return items


class _Skeleton:
    """The text outside of the array, and the place in it that a scan has reached."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._keys_to_array: list[list[str]] = [path.split("."), [path]] if path else [[]]
        self._pieces: list[bytes] = []
        self._size = 0
        # The open containers, and the last key of each object among them.
        self._open: list[bytes] = []
        self._keys: list[str] = []
        self._last_string: bytes | None = None
        self._has_array = False

    def scan(self, buffer: bytes) -> tuple[int, bool]:
        """Search for the opening bracket of the array: the end of the text that was scanned, and whether it was found.

        The scanned text is added, with the bracket.
        """
        done, is_found = 0, False
        for match in _TOKEN.finditer(buffer):
            token = match.group()
            if token == b'"':
                break
            done = match.end()
            if len(token) > 1:
                self._last_string = token
            elif token == b":" and self._keys and self._last_string is not None:
                self._keys[-1] = _decode_key(self._last_string)
            elif token == b"[" and not self._has_array and self._is_at_path():
                is_found = self._has_array = True
            if token in b"{[":
                self._open.append(token)
                self._keys.append("")
                if is_found:
                    break
            elif token in b"}]" and self._open:
                self._open.pop()
                self._keys.pop()
        self.add(buffer[:done])
        return done, is_found

    def add(self, text: bytes) -> None:
        """Add text outside of the array. Raises UnexpectedContent if it is too long."""
        self._pieces.append(text)
        self._size += len(text)
        if self._size > _MAX_ITEM_BYTES:
            raise UnexpectedContent(
                f"sent more than {_MAX_ITEM_BYTES:,} bytes of JSON outside the array {self._path!r}"
            )

    def decode(self, repair: Callable[[bytes], bytes | None]) -> Any:
        """The text without the items of the array. Raises MalformedJSON."""
        return _json.decode_repaired(b"".join(self._pieces), repair)

    def check_array(self, rest: Any) -> None:
        """Raise UnexpectedContent if there was no array, unless null without an error stands in its place."""
        if self._has_array:
            return
        found = select_path(self._path, rest, ABSENT) if self._path else rest
        fields = _json.as_object(rest)
        if found is None:
            reported = next((key for key in ("error", "errors") if (fields or {}).get(key)), None)
            if reported is not None:
                raise UnexpectedContent(f"sent null where {self._path!r} should be an array, and {reported!r}")
            return
        kind = "nothing" if found is ABSENT else f"a {type(found).__name__}"
        keys = "" if fields is None else f"; the body's keys are {sorted(fields)[:20]}"
        raise UnexpectedContent(f"sent {kind} where {self._path or 'the body'!r} should be an array{keys}")

    def _is_at_path(self) -> bool:
        return b"[" not in self._open and self._keys in self._keys_to_array


def _decode_key(token: bytes) -> str:
    try:
        return str(_json.decode(token))
    except MalformedJSON:
        return ""
