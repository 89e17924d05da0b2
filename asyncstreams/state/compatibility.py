"""Is a stream still the one that was read before, as the same account?"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..auth.identity import NotFingerprintable, credential_id
from ..errors import StateIncompatible
from ..protocols import Stream


def identity_of(stream: Stream) -> dict[str, Any]:
    """What must be the same, as JSON values."""
    field = stream.cursor_field
    parents = {parent.name: identity_of(parent) for parent in stream.parents} if stream.incremental_dependency else {}
    return {
        "url_base": stream.url_base,
        "cursor_field": field if field is None or isinstance(field, str) else list(field),
        "cursor_format": stream.cursor_format,
        "cursor_timezone": stream.cursor_timezone,
        **({"parents": parents} if parents else {}),
    }


def with_credential(stream: Stream, salt: str) -> dict[str, Any]:
    """The same with its credential, so that nobody can read it; the stream and its parents have all their options."""
    now = identity_of(stream)
    if "parents" in now:
        now["parents"] = {parent.name: with_credential(parent, salt) for parent in stream.parents}
    with suppress(NotFingerprintable):  # then nobody can say that it is another one
        now["credential"] = credential_id(stream, bytes.fromhex(salt))
    return now


def compare(
    name: str, known: Mapping[str, Any], now: Mapping[str, Any], *, allow_credential_change: bool = False
) -> None:
    """Raises StateIncompatible, with the field that differs."""
    for field, value in now.items():
        if field == "parents":
            for parent in value.keys() & known.get(field, {}).keys():
                compare(parent, known[field][parent], value[parent], allow_credential_change=allow_credential_change)
            continue
        if field not in known or known[field] == value or (field == "credential" and allow_credential_change):
            continue
        shown = "" if field == "credential" else f": it was {known[field]!r}, and is {value!r}"
        raise StateIncompatible(
            f"the state is that of another {field}{shown}",
            field=field,
            hint="allow_credential_change=True keeps it for a new credential of the same account"
            if field == "credential"
            else "give each its own, or begin anew without this one to read everything again",
        ).locate(stream=name)
