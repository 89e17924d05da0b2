"""Parser for the `Link` header (RFC 8288, section 3)."""

from __future__ import annotations

import re

_TARGET = re.compile(r"\s*<([^>]*)>")
# Some servers write single quotes, which are none of RFC 8288.
_PARAM = re.compile(r"""(?:\s*;)+\s*([^\s=;,"]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|'[^',;"]*'|[^\s;,"]*))?""")
_NEXT = re.compile(r"\s*,")


def parse_link_header(value: str) -> dict[str, str]:
    """Targets by relation type in lower case. The first link of a type wins; malformed links are skipped.

    Several headers must be joined by commas (RFC 9110, 5.3). A link with an `anchor` describes another resource and
    is skipped.
    """
    links: dict[str, str] = {}
    position = 0
    while position < len(value):
        match = _TARGET.match(value, position)
        if match is None:
            position = value.find(",", position) + 1 or len(value)
            continue
        target, position = match.group(1), match.end()
        params: dict[str, str] = {}
        while (match := _PARAM.match(value, position)) is not None:
            params.setdefault(match.group(1).lower(), _unquoted(match.group(2) or ""))
            position = match.end()
        if "anchor" not in params:
            for relation in params.get("rel", "").lower().split():
                links.setdefault(relation, target)
        following = _NEXT.match(value, position)
        position = following.end() if following else (value.find(",", position) + 1 or len(value))
    return links


def names_relation(value: str, relation: str) -> bool:
    """Whether a header has a `rel` parameter with this relation, perhaps in a link that cannot be parsed."""
    relations = rf"""["']?(?:[^"',;]*\s)?{re.escape(relation)}(?=["',;\s]|$)"""
    return re.search(rf"(?:^|[;,\s>])rel\s*=\s*{relations}", value, re.IGNORECASE) is not None


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == "'":
        return value[1:-1]
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
