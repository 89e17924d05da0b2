"""Compatibility of a stored state with a stream and its credential."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..auth.identity import NotFingerprintable, credential_id
from ..errors import StateIncompatible
from ..protocols import Stream
from ..redaction import displayed


def identity_of(stream: Stream) -> dict[str, Any]:
    """The settings that must not change while a state is reused, as JSON values."""
    field = stream.cursor_field
    parents = {parent.name: identity_of(parent) for parent in stream.parents} if stream.incremental_dependency else {}
    return {
        "url_base": stream.url_base,
        "cursor_field": field if field is None or isinstance(field, str) else list(field),
        "cursor_format": stream.cursor_format,
        "cursor_timezone": stream.cursor_timezone,
        **({"parents": parents} if parents else {}),
    }


def identity_with_credential(stream: Stream, salt: str) -> dict[str, Any]:
    """The identity with a salted hash of the credential. Call it once the stream and its parents have all options."""
    identity = identity_of(stream)
    if "parents" in identity:
        identity["parents"] = {parent.name: identity_with_credential(parent, salt) for parent in stream.parents}
    with suppress(NotFingerprintable):  # without a fingerprint a changed credential cannot be detected
        identity["credential"] = credential_id(stream, bytes.fromhex(salt))
    return identity


def check_compatible(
    name: str, known: Mapping[str, Any], current: Mapping[str, Any], *, allow_credential_change: bool = False
) -> None:
    """Compare a stored identity with the current one. Raises StateIncompatible with the first field that differs."""
    for field, value in current.items():
        if field == "parents":
            for parent in value.keys() & known.get(field, {}).keys():
                check_compatible(
                    parent, known[field][parent], value[parent], allow_credential_change=allow_credential_change
                )
            continue
        if field not in known or known[field] == value or (field == "credential" and allow_credential_change):
            continue
        change = "" if field == "credential" else f": {displayed(known[field])} changed to {displayed(value)}"
        raise StateIncompatible(
            f"state: it belongs to another {field}{change}",
            field=field,
            hint="if the new credential belongs to the same account, pass allow_credential_change=True"
            if field == "credential"
            else "use a separate state, or delete this one to read everything again",
        ).locate(stream=name)
