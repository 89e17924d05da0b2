"""Which records does a request ask for, and how does the answer lead on?"""

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
    """`size` of the `slots` that the request selects, from `offset`; `following` is the next page's offset."""

    slots: range
    offset: int
    size: int
    following: int | None
    params: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def shown(self) -> range:
        return self.slots[self.offset : self.offset + self.size]

    @property
    def total(self) -> int:
        return len(self.slots)

    @property
    def pages(self) -> int:
        return -(-self.total // self.size)


def window(resource: Resource, slots: range, params: Mapping[str, str]) -> PageWindow:
    """What a request with these parameters sees of the slots. Raises Refused for a parameter that makes no sense."""
    if resource.style == "none":
        return PageWindow(slots, 0, max(1, len(slots)), None)
    size = min(whole(params, resource.size_name, resource.page_size, least=1), resource.size_cap)
    if resource.style in ("page", "link"):
        number = whole(params, resource.page_param, resource.first_page, least=resource.first_page)
        offset = (number - resource.first_page) * size
    elif resource.style == "offset":
        offset = whole(params, resource.offset_param, 0, least=0)
    else:
        offset = _offset_of(resource, params.get(resource.cursor_param))
    following = offset + size if offset + size < len(slots) else None
    return PageWindow(slots, offset, size, following, _kept(resource, params))


def fields(resource: Resource, place: PageWindow, url: str) -> dict[str, Any]:
    """What stands beside the records in a JSON object, by dotted path."""
    told: dict[str, Any] = {}
    if isinstance(at := resource.total_at, str):
        told[at] = place.total
        if resource.total is True:
            told["meta.pages"] = place.pages
    if not isinstance(at := resource.token_at, str) or resource.style not in ("cursor", "next_url", "continue"):
        return told
    if resource.style == "cursor":
        told[at] = None if place.following is None else token(resource, place.following)
    elif resource.style == "next_url":
        told[at] = None if place.following is None else _link(resource, place, url, place.following)
    elif place.following is not None:
        told[at] = {resource.cursor_param: token(resource, place.following), "continue": "-||"}
    return told


def headers(resource: Resource, place: PageWindow, url: str) -> dict[str, str]:
    """What the headers say of the paging."""
    told: dict[str, str] = {}
    if isinstance(at := resource.total_at, Header):
        told[at.name] = str(place.total)
    if resource.style == "cursor" and isinstance(at := resource.token_at, Header) and place.following is not None:
        told[at.name] = token(resource, place.following)
    if resource.style == "link" and place.total:
        last = (place.pages - 1) * place.size
        targets = {"first": 0, "prev": place.offset - place.size, "next": place.following, "last": last}
        links = {rel: at for rel, at in targets.items() if at is not None and 0 <= at <= last}
        told["Link"] = ", ".join(f'<{_link(resource, place, url, at)}>; rel="{rel}"' for rel, at in links.items())
    return told


def token(resource: Resource, offset: int) -> str:
    """What the cursor of a page looks like: nothing that a client could count on."""
    return urlsafe_b64encode(f"{resource.name}:{offset}".encode()).decode().rstrip("=")


def whole(params: Mapping[str, str], name: str, default: int, *, least: int) -> int:
    """A whole number among the parameters. Raises Refused."""
    told = params.get(name)
    if told is None:
        return default
    if not (told.isascii() and told.isdecimal()) or len(told) > 15 or int(told) < least:
        raise BadRequest(400, f"{name}={told[:40]}: a whole number from {least} is needed", parameter=name)
    return int(told)


def _offset_of(resource: Resource, told: str | None) -> int:
    if told is None:
        return 0
    try:
        name, _, number = urlsafe_b64decode(told + "=" * (-len(told) % 4)).decode().rpartition(":")
        if name == resource.name and number.isdecimal():
            return int(number)
    except (binascii.Error, ValueError):
        pass
    name = resource.cursor_param
    raise BadRequest(400, f"{name}={told[:40]}: no cursor that this resource has given", parameter=name)


def _kept(resource: Resource, params: Mapping[str, str]) -> dict[str, str]:
    """The parameters that a link to another page repeats; a credential is none of them."""
    names = (resource.size_name, resource.since_param, resource.until_param)
    return {name: params[name] for name in names if name in params}


def _link(resource: Resource, place: PageWindow, url: str, offset: int) -> str:
    if resource.style == "link":
        position = {resource.page_param: str(offset // place.size + resource.first_page)}
    else:
        position = {resource.cursor_param: token(resource, offset)}
    return f"{url}?{urlencode({**place.params, **position}, quote_via=quote)}"
