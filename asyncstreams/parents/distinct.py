"""Parents that come more than once while they are read: their children are read once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from .._json import encode_canonical
from ..declaration.stream import Stream
from ..models import Slice, shorten
from ..redaction import HiddenText, replace_secrets

_CONTENT_BITS = 0xFF  # Python keeps such small integers once; a change goes unnoticed once in 256 times
_encode = msgspec.json.Encoder(order="sorted").encode
_log = logging.getLogger("asyncstreams")


class DistinctParents:
    """The keys of the parents below which one substream has been read in a run: about 0.1 KB for each, as hashes."""

    def __init__(self, stream: Stream) -> None:
        self._name = stream.name
        self._parents = " and ".join(parent.name for parent in stream.parents)
        self._contents: dict[int, int] = {}
        self._repeated = 0
        self._has_warned = False

    def add_slice(self, stream_slice: Slice, partitions: Sequence[Mapping[str, Any]]) -> bool:
        """Add a slice by its partitions and interval; false if one like it was added before."""
        interval = stream_slice.shown_interval()
        # Without a null in it, since texts with nulls are searched for numbers without a JSON form.
        key = partitions if interval is None else [partitions, interval]
        return self.add(key, stream_slice.partition, stream_slice)

    def add(self, key: object, content: Mapping[str, Any], label: Slice) -> bool:
        """Add the key of a parent and its fields; false if the key was added before. Messages show `label`.

        A key without a JSON form is always new.
        """
        try:
            number = _hash(key)
            try:
                digest = hash(_encode(content)) & _CONTENT_BITS
            except (TypeError, ValueError, RecursionError):
                digest = _hash(content) & _CONTENT_BITS
        except TypeError:
            return True
        known = self._contents.get(number)
        if known is None:
            self._contents[number] = digest
            return True
        self._repeated += 1
        if known != digest and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "%s: %s came twice from %s, with other fields: its children are read once. If these are two parents, "
                "the primary_key of %s is not unique, and children are missing: add the field that distinguishes them",
                self._name,
                shorten(str(label)),
                self._parents,
                self._parents,
            )
        return False

    def log_repeated(self) -> None:
        """Log the number of parents that came again."""
        if self._repeated:
            _log.info(
                "%s: %s of %s came again and %s left out, since their children are read once",
                self._name,
                f"{self._repeated:,} {'parent' if self._repeated == 1 else 'parents'}",
                self._parents,
                "was" if self._repeated == 1 else "were",
            )


def _hash(value: object) -> int:
    try:
        return hash(encode_canonical(value))
    except TypeError:
        return hash(encode_canonical(replace_secrets(value, _hash_of_secret)))


def _hash_of_secret(secret: HiddenText) -> str:
    return hashlib.blake2b(secret.reveal().encode("utf-8", "surrogatepass")).hexdigest()
