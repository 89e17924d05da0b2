"""Routes of a MockApi: the resource, the parents and the record that a path names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...errors import ConfigError
from .dataset import Dataset
from .resource import Resource
from .wire_messages import BadRequest


@dataclass(frozen=True, slots=True)
class Route:
    """The path of a resource. In `segments`, None stands for the id of a parent record."""

    dataset: Dataset
    path: str
    segments: tuple[str | None, ...]

    @property
    def name(self) -> str:
        return self.dataset.resource.name

    def parent_slot(self, ids: Sequence[str]) -> int:
        """The slot of the innermost parent. `ids` start with the outermost one. Raises BadRequest (404)."""
        lineage: list[Dataset] = []
        dataset = self.dataset.parent
        while dataset is not None:
            lineage.insert(0, dataset)
            dataset = dataset.parent
        slot = 0
        for dataset, id_text in zip(lineage, ids, strict=True):
            slot = find_slot_or_404(dataset, id_text, slot)
        return slot


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """The match of a path: a collection or, with `slot`, one of its records."""

    route: Route
    parent_slot: int
    slot: int | None = None


def build_routes(resources: Iterable[Resource], seed: int) -> dict[str, Route]:
    """The route of each resource, by name. Raises ConfigError for duplicate names and conflicting paths."""
    found: dict[str, Route] = {}
    for resource in resources:
        if resource.name in found:
            raise ConfigError(f"Resource({resource.name!r}): another resource has the same name")
        found[resource.name] = _build_route(resource, seed, found)
    return found


def match_path(known: Iterable[Route], parts: Sequence[str]) -> RouteMatch:
    """The match of a path, given by its decoded segments. Raises BadRequest (404)."""
    known = list(known)
    # Literal segments win over ids: `users/me` before `users/{id}`.
    for route in sorted(known, key=lambda route: route.segments.count(None)):
        ids = _match_segments(route.segments, parts)
        if ids is not None:
            return RouteMatch(route, route.parent_slot(ids))
    for route in known:
        ids = _match_segments((*route.segments, None), parts)
        if ids is not None:
            parent_slot = route.parent_slot(ids[:-1])
            return RouteMatch(route, parent_slot, find_slot_or_404(route.dataset, ids[-1], parent_slot))
    paths = [f"/{route.path}" for route in known]
    raise BadRequest(404, f"there is nothing at /{'/'.join(parts)[:200]}", paths=paths)


def find_slot_or_404(dataset: Dataset, id_text: str, parent_slot: int) -> int:
    """The slot of the record with this id. Raises BadRequest (404) if there is none."""
    slot = dataset.find_slot(id_text, parent_slot)
    if slot is None:
        raise BadRequest(404, f"{dataset.resource.name} has no record {id_text[:80]!r} here")
    return slot


def _build_route(resource: Resource, seed: int, known: dict[str, Route]) -> Route:
    parent = None if resource.parent is None else known.get(resource.parent)
    if resource.parent is not None and parent is None:
        raise ConfigError(
            f"Resource({resource.name!r}, parent={resource.parent!r}): no resource of this name is declared before it",
            hint=f"declared before it: {', '.join(known) or 'none'}",
        )
    default = resource.name if parent is None else f"{parent.path}/{{id}}/{resource.name}"
    path = (resource.path or default).strip("/")
    segments = tuple(None if part == "{id}" else part for part in path.split("/"))
    dataset = Dataset(resource, seed, parent.dataset if parent else None)
    parent_count, ancestor = 0, dataset.parent
    while ancestor is not None:
        parent_count, ancestor = parent_count + 1, ancestor.parent
    if segments.count(None) != parent_count:
        raise ConfigError(
            f"Resource({resource.name!r}, path={path!r}): path must contain {{id}} {parent_count} times, "
            "once for each parent"
        )
    if any(route.segments == segments for route in known.values()):
        raise ConfigError(f"Resource({resource.name!r}): another resource has the path /{path}")
    return Route(dataset, path, segments)


def _match_segments(segments: tuple[str | None, ...], parts: Sequence[str]) -> list[str] | None:
    if len(segments) != len(parts):
        return None
    if any(segment not in (None, part) for segment, part in zip(segments, parts, strict=True)):
        return None
    return [part for segment, part in zip(segments, parts, strict=True) if segment is None]
