"""Paging of a MockApi: the records that a request selects, and the link to the next page."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from ...pagination.paginators import Header
from .resource import Resource
from .wire_messages import BadRequest


@dataclass(frozen=True, slots=True)
class PageWindow:
    """One page of the records that a request selects.

    `slots` are all selected records; the page has `size` of them from `offset`. `next_offset` is None on
    the last page. `params` are repeated in links to other pages.
    """

    slots: range
    offset: int
    size: int
    next_offset: int | None
    params: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def visible_slots(self) -> range:
        return self.slots[self.offset : self.offset + self.size]

    @property
    def total(self) -> int:
        return len(self.slots)

    @property
    def page_count(self) -> int:
        return -(-self.total // self.size)


def page_window(resource: Resource, slots: range, params: Mapping[str, str]) -> PageWindow:
    """The page that the parameters of a request select. Raises BadRequest for an invalid parameter."""
    layout = resource.layout
    if layout.effective_paging == "none":
        return PageWindow(slots, 0, max(1, len(slots)), None)
    size = min(int_param(params, layout.page_size_param, layout.page_size, minimum=1), layout.page_size_cap)
    if layout.effective_paging in ("page", "link"):
        number = int_param(params, layout.page_param, layout.first_page, minimum=layout.first_page)
        offset = (number - layout.first_page) * size
    elif layout.effective_paging == "offset":
        offset = int_param(params, layout.offset_param, 0, minimum=0)
    else:
        offset = _decode_cursor(resource, params.get(layout.cursor_param))
    next_offset = offset + size if offset + size < len(slots) else None
    return PageWindow(slots, offset, size, next_offset, _repeated_params(resource, params))


def paging_fields(resource: Resource, window: PageWindow, url: str) -> dict[str, Any]:
    """The fields next to the records in a JSON object, by dotted path."""
    fields: dict[str, Any] = {}
    if isinstance(at := resource.layout.total_location, str):
        fields[at] = window.total
        if resource.layout.total is True:
            fields["meta.pages"] = window.page_count
    paging, next_offset = resource.layout.effective_paging, window.next_offset
    if not isinstance(at := resource.layout.next_location, str) or paging not in ("cursor", "next_url", "continue"):
        return fields
    if paging == "cursor":
        fields[at] = None if next_offset is None else encode_cursor(resource, next_offset)
    elif paging == "next_url":
        fields[at] = None if next_offset is None else _link(resource, window, url, next_offset)
    elif next_offset is not None:
        fields[at] = {resource.layout.cursor_param: encode_cursor(resource, next_offset), "continue": "-||"}
    return fields


def paging_headers(resource: Resource, window: PageWindow, url: str) -> dict[str, str]:
    """The response headers with the total, the next cursor or the links."""
    headers: dict[str, str] = {}
    if isinstance(at := resource.layout.total_location, Header):
        headers[at.name] = str(window.total)
    paging, next_offset = resource.layout.effective_paging, window.next_offset
    if paging == "cursor" and isinstance(at := resource.layout.next_location, Header) and next_offset is not None:
        headers[at.name] = encode_cursor(resource, next_offset)
    if paging == "link" and window.total:
        last = (window.page_count - 1) * window.size
        targets = {"first": 0, "prev": window.offset - window.size, "next": next_offset, "last": last}
        headers["Link"] = ", ".join(
            f'<{_link(resource, window, url, offset)}>; rel="{rel}"'
            for rel, offset in targets.items()
            if offset is not None and 0 <= offset <= last
        )
    return headers


def encode_cursor(resource: Resource, offset: int) -> str:
    """The cursor for an offset, which is opaque to clients."""
    return urlsafe_b64encode(f"{resource.name}:{offset}".encode()).decode().rstrip("=")


def int_param(params: Mapping[str, str], name: str, default: int, *, minimum: int) -> int:
    """The value of an integer parameter. Raises BadRequest unless it is a whole number from `minimum`."""
    text = params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal()) or len(text) > 15 or int(text) < minimum:
        raise BadRequest(400, f"{name}={text[:40]}: the value must be a whole number from {minimum}", parameter=name)
    return int(text)


def _decode_cursor(resource: Resource, cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        name, _, number = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().rpartition(":")
        if name == resource.name and number.isdecimal():
            return int(number)
    except (binascii.Error, ValueError):
        pass
    name = resource.layout.cursor_param
    raise BadRequest(400, f"{name}={cursor[:40]}: not a cursor of this resource", parameter=name)


def _repeated_params(resource: Resource, params: Mapping[str, str]) -> dict[str, str]:
    """The parameters that links to other pages repeat. Credentials are not among them."""
    names = (resource.layout.page_size_param, resource.data.since_param, resource.data.until_param)
    return {name: params[name] for name in names if name in params}


def _link(resource: Resource, window: PageWindow, url: str, offset: int) -> str:
    if resource.layout.effective_paging == "link":
        position = {resource.layout.page_param: str(offset // window.size + resource.layout.first_page)}
    else:
        position = {resource.layout.cursor_param: encode_cursor(resource, offset)}
    return f"{url}?{urlencode({**window.params, **position}, quote_via=quote)}"
