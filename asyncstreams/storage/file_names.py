"""Names of files and folders, made from the names of streams: stable, distinct, and not too long."""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b
from itertools import accumulate
from urllib.parse import quote

_MAX_CHARS = 140
"""Encrypted file systems allow 143 bytes for a name, all others 255."""
_PLAIN_CHARS = " !#$&'()+,;@^_`~-."
"""Characters besides letters and digits that all systems allow, and that have no meaning in the patterns of readers."""
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}


def file_name(name: str, used: Collection[str] = ()) -> str:
    """The name as a file name in ASCII: percent-encoded where a file name must not contain a character.

    A name that is too long, or that is in `used` (in lower case), ends with a hash instead. Raises UnicodeEncodeError
    for a lone surrogate.
    """
    quoted = [quote(char, safe=_PLAIN_CHARS) for char in name]
    if name.startswith(".") or name.partition(".")[0].lower() in _DEVICES:
        quoted[0] = f"%{ord(name[0]):02X}"
    if name.endswith((".", " ")):
        quoted[-1] = f"%{ord(name[-1]):02X}"
    plain = "".join(quoted)
    if plain and len(plain) <= _MAX_CHARS and plain.lower() not in used:
        return plain
    ending = f"~{short_hash(name)}"
    sizes = accumulate(map(len, quoted))
    kept = [char for char, size in zip(quoted, sizes, strict=True) if size <= _MAX_CHARS - len(ending)]
    return "".join(kept) + ending


def short_hash(name: str) -> str:
    """16 characters that are different for different names."""
    return blake2b(name.encode(), digest_size=8).hexdigest()
