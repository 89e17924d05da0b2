"""File formats that are recognised by the first bytes of a body."""

from __future__ import annotations

_BZIP2_LEVELS = range(1, 10)
# A block of data, or the end of an empty file, follows the header of bzip2.
_BZIP2 = tuple(b"BZh%d" % level + block for level in _BZIP2_LEVELS for block in (b"1AY&SY", b"\x17rE8P\x90"))
# A zstd file may begin with one of 16 kinds of frames to be skipped (RFC 8878, 3.1.2).
_ZSTD = (b"\x28\xb5\x2f\xfd", *(bytes((0x50 + kind,)) + b"\x2a\x4d\x18" for kind in range(16)))
_COMPRESSED = {"gzip": (b"\x1f\x8b\x08",), "bzip2": _BZIP2, "zstd": _ZSTD}
_ARCHIVES = {"ZIP": (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")}
_UNSUPPORTED = {
    "xz": (b"\xfd7zXZ\0",),
    "7-Zip": (b"7z\xbc\xaf\x27\x1c",),
    "RAR": (b"Rar!\x1a\x07",),
    "LZ4": (b"\x04\x22\x4d\x18",),
    "compress (.Z)": (b"\x1f\x9d",),
    "Avro": (b"Obj\x01",),
    "Parquet": (b"PAR1\x15",),
    "PDF": (b"%PDF-",),
    "old Office": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",),
}
_KINDS = {magic: kind for table in (_COMPRESSED, _ARCHIVES, _UNSUPPORTED) for kind in table for magic in table[kind]}
_MAGICS = tuple(_KINDS)
_MIN_HEAD_BYTES = 4  # which shows the charset, too
_MAX_HEAD_BYTES = max(map(len, _MAGICS))


def is_decisive(head: bytes) -> bool:
    """Whether the first bytes of a body suffice to recognise its file format and its charset."""
    if len(head) >= _MAX_HEAD_BYTES:
        return True
    return len(head) >= _MIN_HEAD_BYTES and not any(magic.startswith(head) for magic in _MAGICS)


def file_format(head: bytes) -> str | None:
    """The name of the file format that begins with these bytes, by its whole magic number; None for a text."""
    if not head.startswith(_MAGICS):
        return None
    return next(kind for magic, kind in _KINDS.items() if head.startswith(magic))


def is_compressed(kind: str) -> bool:
    """Whether the format is that of one compressed file, which is decoded while it arrives."""
    return kind in _COMPRESSED


def is_archive(kind: str | None) -> bool:
    """Whether the format is that of an archive of files, which is read from its end."""
    return kind in _ARCHIVES
