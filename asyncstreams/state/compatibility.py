"""Compatibility of a stored state with a stream and its credential."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..auth.identity import NotFingerprintable, credential_id
from ..cursors.cursor_format import CursorFormat
from ..cursors.windows import NumberRanges
from ..declaration.stream import Stream
from ..errors import ConfigError, StateIncompatible
from ..redaction import displayed
from .stream_state import StreamState


def cursor_of(stream: Stream) -> CursorFormat:
    """The format of a stream's cursor values, as declared. Raises ConfigError."""
    settings = stream.resolved
    declared, zone = settings.cursor_format, settings.cursor_timezone
    if not isinstance(declared, CursorFormat):
        is_number = declared == "auto" and isinstance(settings.windows, NumberRanges)
        return CursorFormat("number" if is_number else declared, zone)
    if declared.zone is not None and zone not in (None, declared.zone):
        raise ConfigError(
            f"{type(stream).__name__}.cursor_timezone = {zone!r}: its CursorFormat has the zone {declared.zone!r}",
            hint="remove one of the two",
        )
    return CursorFormat(declared.records, declared.zone or zone, declared.request)


def use_declared_cursor(state: StreamState, stream: Stream) -> None:
    """Set the formats of a stored state to those that a stream and its parents declare now. Raises ConfigError."""
    state.use_cursor(state.cursor.redeclared(cursor_of(stream)))
    for parent in stream.parents:
        if parent.name in state.parents:
            use_declared_cursor(state.parents[parent.name], parent)


def identity_of(stream: Stream) -> dict[str, Any]:
    """The settings that must not change while a state is reused, as JSON values."""
    field, cursor = stream.resolved.cursor_field, cursor_of(stream)
    parents = (
        {parent.name: identity_of(parent) for parent in stream.parents}
        if stream.resolved.incremental_dependency
        else {}
    )
    return {
        "url_base": stream.url_base,
        "cursor_field": field if field is None or isinstance(field, str) else list(field),
        "cursor_format": cursor.to_json(),
        "cursor_timezone": cursor.zone,
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
    name: str,
    known: Mapping[str, Any],
    current: Mapping[str, Any],
    *,
    allow_credential_change: bool = False,
    way_out: str = "use a separate state, or delete this one to read everything again",
) -> None:
    """Compare a stored identity with the current one. Raises StateIncompatible with the first field that differs.

    `way_out` is the hint at how to go on.
    """
    for field, value in current.items():
        if field == "parents":
            for parent in value.keys() & known.get(field, {}).keys():
                check_compatible(
                    parent,
                    known[field][parent],
                    value[parent],
                    allow_credential_change=allow_credential_change,
                    way_out=way_out,
                )
            continue
        if field not in known or known[field] == value or (field == "credential" and allow_credential_change):
            continue
        if field == "cursor_format" and _is_readable(known[field], value):
            continue
        change = "" if field == "credential" else f": {displayed(known[field])} changed to {displayed(value)}"
        raise StateIncompatible(
            f"state: it belongs to another {field}{change}",
            field=field,
            hint=f"if the new credential is of the same account, pass allow_credential_change=True; if not, {way_out}"
            if field == "credential"
            else way_out,
        ).locate(stream=name)


def _is_readable(known: Any, current: Any) -> bool:
    """Whether the progress in one cursor format can be continued in another: times do not depend on it.

    The format of requests does not matter, and further formats of values may be added. Between two explicit formats of
    values the stream is another one.
    """
    old, new = CursorFormat.from_json(known), CursorFormat.from_json(current)
    is_decided = old.is_decided and new.is_decided
    return set(old.formats) <= set(new.formats) or (old.is_time and new.is_time and not is_decided)
