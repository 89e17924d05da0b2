"""Which resource lies at a path?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...errors import ConfigError
from .dataset import Table
from .resource import Resource
from .wire_messages import BadRequest


@dataclass(frozen=True, slots=True)
class Route:
    """A resource's place: `segments` are those of its path, None standing for an id of a parent's record."""

    table: Table
    path: str
    segments: tuple[str | None, ...]

    @property
    def name(self) -> str:
        return self.table.resource.name

    def parent_slot(self, ids: Sequence[str]) -> int:
        """The slot of the innermost parent with these ids, the outermost first. Raises Refused."""
        lineage: list[Table] = []
        table = self.table.parent
        while table is not None:
            lineage.insert(0, table)
            table = table.parent
        slot = 0
        for table, told in zip(lineage, ids, strict=True):
            slot = slot_of(table, told, slot)
        return slot


@dataclass(frozen=True, slots=True)
class Found:
    """What a path leads to: a collection, or with `slot` one of its records."""

    route: Route
    parent_slot: int
    slot: int | None = None


def routes(resources: Iterable[Resource], seed: int) -> dict[str, Route]:
    """A route for each resource, by name. Raises ConfigError for names and places that do not fit together."""
    found: dict[str, Route] = {}
    for resource in resources:
        if resource.name in found:
            raise ConfigError(f"Resource({resource.name!r}): there are two of this name")
        found[resource.name] = _route(resource, seed, found)
    return found


def find(known: Iterable[Route], parts: Sequence[str]) -> Found:
    """What lies at the path of these segments. Raises Refused, a 404."""
    known = list(known)
    # Words win over ids: `users/me` over `users/{id}`.
    for route in sorted(known, key=lambda route: route.segments.count(None)):
        ids = _ids(route.segments, parts)
        if ids is not None:
            return Found(route, route.parent_slot(ids))
    for route in known:
        ids = _ids((*route.segments, None), parts)
        if ids is not None:
            parent_slot = route.parent_slot(ids[:-1])
            return Found(route, parent_slot, slot_of(route.table, ids[-1], parent_slot))
    paths = [f"/{route.path}" for route in known]
    raise BadRequest(404, f"there is nothing at /{'/'.join(parts)[:200]}", paths=paths)


def slot_of(table: Table, told: str, parent_slot: int) -> int:
    """Raises Refused where there is no such record."""
    slot = table.find(told, parent_slot)
    if slot is None:
        raise BadRequest(404, f"{table.resource.name} has no record {told[:80]!r} here")
    return slot


def _route(resource: Resource, seed: int, known: dict[str, Route]) -> Route:
    parent = None if resource.parent is None else known.get(resource.parent)
    if resource.parent is not None and parent is None:
        raise ConfigError(
            f"Resource({resource.name!r}, parent={resource.parent!r}): there is no such resource before it",
            hint=f"known are: {', '.join(known) or 'none'}",
        )
    default = resource.name if parent is None else f"{parent.path}/{{id}}/{resource.name}"
    path = (resource.path or default).strip("/")
    segments = tuple(None if part == "{id}" else part for part in path.split("/"))
    table = Table(resource, seed, parent.table if parent else None)
    needed, outer = 0, table.parent
    while outer is not None:
        needed, outer = needed + 1, outer.parent
    if segments.count(None) != needed:
        raise ConfigError(f"Resource({resource.name!r}, path={path!r}): it needs {{id}} {needed} times, once a parent")
    if any(route.segments == segments for route in known.values()):
        raise ConfigError(f"Resource({resource.name!r}): another resource lies at /{path}")
    return Route(table, path, segments)


def _ids(segments: tuple[str | None, ...], parts: Sequence[str]) -> list[str] | None:
    if len(segments) != len(parts):
        return None
    if any(segment not in (None, part) for segment, part in zip(segments, parts, strict=True)):
        return None
    return [part for segment, part in zip(segments, parts, strict=True) if segment is None]
