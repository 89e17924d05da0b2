"""Parser for structured field values (RFC 9651)."""

from __future__ import annotations

import base64
import binascii
import re
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote_to_bytes

BareItem: TypeAlias = str | int | float | bool | bytes

_KEY = r"[a-z*][a-z0-9_.*-]*"
_BARE = (
    r'"(?P<string>(?:[ !#-\[\]-~]|\\["\\])*)"'
    r"|(?P<decimal>-?[0-9]{1,12}\.[0-9]{1,3})(?![0-9])"
    r"|(?P<integer>-?[0-9]{1,15})(?![0-9.])"
    r"|(?P<token>[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*)"
    r"|\?(?P<boolean>[01])"
    r"|:(?P<bytes>[A-Za-z0-9+/=]*):"
    r"|@(?P<date>-?[0-9]{1,15})(?![0-9.])"
    r'|%"(?P<display>(?:[ !#$&-~]|%[0-9a-f]{2})*)"'
)
# `re` compiles these on first use: few APIs send such headers.
_MEMBER = rf"(?P<key>{_KEY})(?:=(?:{_BARE}))?"
_PARAMETER = rf"; *{_MEMBER}"
_ESCAPED = r"\\(.)"
_SEPARATOR = r"[ \t]*,[ \t]*"


class Item(NamedTuple):
    """A value and its parameters. Tokens and strings are str; a date is an int of seconds since 1970."""

    value: BareItem
    parameters: dict[str, BareItem]


def parse_list(text: str) -> list[Item] | None:
    """The items of a List (4.2.1), in order; None if any of it is malformed or an Inner List."""
    members = _parse_members(text, _BARE)
    return None if members is None else [item for _, item in members]


def parse_dictionary(text: str) -> dict[str, Item] | None:
    """The items of a Dictionary (4.2.2); the last of equal keys counts. None as for `parse_list`."""
    members = _parse_members(text, _MEMBER)
    return None if members is None else dict(members)


def _parse_members(text: str, pattern: str) -> list[tuple[str, Item]] | None:
    match_member, match_parameter = re.compile(pattern).match, re.compile(_PARAMETER).match
    match_separator = re.compile(_SEPARATOR).match
    text = text.lstrip(" ").rstrip(" \t")
    members: list[tuple[str, Item]] = []
    at = 0
    while at < len(text) or members:
        if (match := match_member(text, at)) is None or (value := _value(match)) is None:
            return None
        key = match["key"] if pattern == _MEMBER else ""
        parameters: dict[str, BareItem] = {}
        at = match.end()
        while (parameter := match_parameter(text, at)) is not None:
            if (parameter_value := _value(parameter)) is None:
                return None
            parameters[parameter["key"]] = parameter_value
            at = parameter.end()
        members.append((key, Item(value, parameters)))
        if at == len(text):
            break
        if (separator := match_separator(text, at)) is None:
            return None
        at = separator.end()
    return members


def _value(match: re.Match[str]) -> BareItem | None:
    """The bare item in the last group of a match; a key without a value is true."""
    kind = match.lastgroup
    if kind is None or kind == "key":
        return True
    text: str = match[kind]
    match kind:
        case "integer" | "date":
            return int(text)
        case "decimal":
            return float(text)
        case "string":
            return re.sub(_ESCAPED, r"\1", text)
        case "boolean":
            return text == "1"
        case "bytes":
            return _decode_bytes(text)
        case "display":
            return _decode_display(text)
        case _:
            return text


def _decode_bytes(text: str) -> bytes | None:
    try:
        # Padding may be left out (4.2.7).
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return None


def _decode_display(text: str) -> str | None:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return None
