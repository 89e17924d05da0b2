"""Where in a JSON text, that is still arriving, do the items of one array lie?

Written here, and not taken from ijson: that refuses integers beyond 64 bits where floats are
wanted as such, and replaces lone surrogates without a word.
"""

from __future__ import annotations

import re
from typing import Any

from .. import _json
from ..errors import MalformedJSON, UnexpectedContent
from ..pagination.selectors import select_path

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|["{}\[\],:]', re.DOTALL)
_LONGEST_ITEM = 16 * 2**20


class ItemScanner:
    """Cuts the items of the array at `path` out of the text, and decodes those of a piece in one call.

    What remains, the skeleton, is kept and decoded at the end: so all of the text is checked,
    and only the items are not held.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._steps = path.split(".") if path else []
        self._buffer: bytes = b""
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._skeleton: list[bytes] = []
        self._skeleton_size = 0
        # Outside the array: the open containers, each with its last key where it is an object.
        self._open: list[bytes] = []
        self._keys: list[str] = []
        self._last_string: bytes | None = None
        # Inside it: how many commas between items have passed, and from which size of the
        # buffer another look is worth while: one long item is not scanned anew with each piece.
        self._inside = False
        self._commas = 0
        self._look_from = 0
        self._found = False

    def feed(self, piece: bytes) -> list[Any]:
        """The items that end in this piece. Raises MalformedJSON."""
        self._pieces.append(piece)
        self._waiting += len(piece)
        if len(self._buffer) + self._waiting > _LONGEST_ITEM + len(piece):
            raise UnexpectedContent(f"sent JSON with an item of more than {_LONGEST_ITEM:,} bytes")
        if self._inside and len(self._buffer) + self._waiting < self._look_from:
            return []
        return self._scan()

    def end(self) -> list[Any]:
        """The items that were left. Raises MalformedJSON, or UnexpectedContent when there was no array."""
        self._look_from = 0
        items = self._scan()
        if self._inside:
            raise MalformedJSON("sent JSON that ends within its array: it was cut on the way")
        self._keep(self._buffer)
        skeleton = _json.decode(b"".join(self._skeleton))
        if not self._found:
            found = select_path(self._path, skeleton) if self._path else skeleton
            told = "nothing" if found is None else f"a {type(found).__name__}"
            fields = _json.as_object(skeleton)
            keys = "" if fields is None else f"; the body's keys are {sorted(fields)[:20]}"
            raise UnexpectedContent(f"sent {told} where {self._path or 'the body'!r} should be an array{keys}")
        return items

    def _scan(self) -> list[Any]:
        self._buffer = b"".join((self._buffer, *self._pieces))
        self._pieces, self._waiting = [], 0
        items: list[Any] = []
        moved = True
        while moved:
            moved = self._scan_items(items) if self._inside else self._seek()
        return items

    def _seek(self) -> bool:
        """Look for the array's opening bracket; true when it was found."""
        buffer, done = self._buffer, 0
        for match in _TOKEN.finditer(buffer):
            token = match.group()
            if token == b'"':
                break
            done = match.end()
            if len(token) > 1:
                self._last_string = token
            elif token == b":" and self._keys and self._last_string is not None:
                self._keys[-1] = _text(self._last_string)
            elif token == b"[" and not self._found and self._on_target():
                # The bracket itself belongs to the skeleton.
                self._inside = self._found = True
            if token in b"{[":
                self._open.append(token)
                self._keys.append("")
                if self._inside:
                    break
            elif token in b"}]" and self._open:
                self._open.pop()
                self._keys.pop()
        self._keep(buffer[:done])
        self._buffer = buffer[done:]
        return self._inside

    def _on_target(self) -> bool:
        if any(opened == b"[" for opened in self._open):
            return False
        return self._keys in (self._steps, [self._path]) if self._path else not self._keys

    def _scan_items(self, items: list[Any]) -> bool:
        """Decode up to the last comma between items; true when the array ended."""
        buffer, depth, cut, commas = self._buffer, 0, 0, self._commas
        self._look_from = 0
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
                    self._finish(items, buffer[:cut], buffer[cut : match.start()], commas)
                    self._buffer = buffer[match.start() :]
                    self._inside = False
                    return True
                depth -= 1
            elif token == b"," and depth == 0:
                cut = match.end()
                commas += 1
        if cut:
            whole = buffer[: cut - 1]
            if not whole.strip():
                raise MalformedJSON("sent JSON that is malformed: a comma without an item before it")
            items.extend(_decoded(whole))
            self._buffer, self._commas = buffer[cut:], commas
        else:
            self._look_from = 2 * len(buffer)
        return False

    def _finish(self, items: list[Any], whole: bytes, last: bytes, commas: int) -> None:
        if commas and not last.strip():
            raise MalformedJSON("sent JSON that is malformed: a comma before the end of an array")
        if text := whole + last:
            items.extend(_decoded(text))
        self._commas = 0

    def _keep(self, text: bytes) -> None:
        self._skeleton.append(text)
        self._skeleton_size += len(text)
        if self._skeleton_size > _LONGEST_ITEM:
            raise UnexpectedContent(f"sent more than {_LONGEST_ITEM:,} bytes of JSON beside the array {self._path!r}")


def _decoded(text: bytes) -> list[Any]:
    try:
        items: list[Any] = _json.decode(b"[" + text + b"]")
    except MalformedJSON as error:
        # The offset would be that within this piece.
        raise MalformedJSON(f"{error.message.partition(' at byte')[0]}, among the items of an array") from None
    return items


def _text(token: bytes) -> str:
    try:
        return str(_json.decode(token))
    except MalformedJSON:
        return ""
