"""Trees of streams over real sockets: complete, with one request for each page of a parent."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cached_tree import CustomerChild, Customers, Visits, streams

from asyncstreams import Source
from asyncstreams.testing import Fault, MockApi, Quota, Resource

COUNT, PAGES = 100, 5


def shop_api(**options: Any) -> MockApi:
    return MockApi(
        Resource("customers", COUNT, total=True),
        Resource("orders", (0, 30), parent="customers", total=True),
        Resource("visits", (0, 3), parent="customers", total=True),
        seed=3,
        **options,
    )


def sorted_ids(records: list[Any]) -> list[Any]:
    return sorted(record["id"] for record in records)


def served_ids(served: MockApi, name: str) -> list[Any]:
    return sorted(id_ for customer in served.ids("customers") for id_ in served.ids(name, customer))


async def test_each_parent_page_is_requested_once_for_two_children(
    tmp_path: Path,
) -> None:
    async with shop_api(latency=(0.0, 0.02)) as served:
        source = Source(streams(served.url, tmp_path))

        found = await source.read()

        assert sorted_ids(found["customers"]) == served.ids("customers")
        assert {name: sorted_ids(found[name]) for name in ("orders", "visits")} == {
            name: served_ids(served, name) for name in ("orders", "visits")
        }
        assert served.counts.by_resource["customers"] == PAGES


async def test_emitted_parent_is_cached_by_the_same_read(tmp_path: Path) -> None:
    async with shop_api() as served:
        customers, orders, visits = streams(served.url, tmp_path)
        await Source([customers, orders]).read()

        found = await visits.read()

        assert sorted_ids(found) == served_ids(served, "visits")
        assert served.counts.by_resource["customers"] == PAGES


class LateVisits(Visits):
    name = "visits"

    async def stream_slices(self, state: Any) -> Any:
        await asyncio.sleep(2)
        async for stream_slice in super().stream_slices(state):
            yield stream_slice


async def test_child_that_starts_later_requests_no_parent(tmp_path: Path) -> None:
    async with shop_api() as served:
        customers, orders, _ = streams(served.url, tmp_path)
        late = LateVisits(parent=customers)
        late.url_base = served.url

        found = await Source([orders, late]).read()

        assert (sorted_ids(found["orders"]), sorted_ids(found["visits"])) == (
            served_ids(served, "orders"),
            served_ids(served, "visits"),
        )
        assert served.counts.by_resource["customers"] == PAGES


API_OPTIONS: dict[str, Any] = {
    "faults": {"faults": [Fault.status(503, at=[2]), Fault.cut(at=[3]), Fault.reset(at=[1], resource="customers")]},
    "quota": {"quota": Quota(100, per=1, headers="ratelimit")},
}


@pytest.mark.parametrize("options", API_OPTIONS.values(), ids=API_OPTIONS)
async def test_faults_and_quotas_lose_no_record(tmp_path: Path, options: dict[str, Any]) -> None:
    async with shop_api(**options) as served:
        found = await Source(streams(served.url, tmp_path)).read()

        assert sorted_ids(found["customers"]) == served.ids("customers")
        assert (sorted_ids(found["orders"]), sorted_ids(found["visits"])) == (
            served_ids(served, "orders"),
            served_ids(served, "visits"),
        )
        assert sum(served.counts.by_fault.values()) >= len(options.get("faults", ()))


class Projects(Customers):
    use_cache = False

    def path(self, context: Any) -> str:
        return "projects"


class Issues(CustomerChild):
    pass


class Comments(CustomerChild):
    parent_fields = ("project_id", "id")

    def path(self, context: Any) -> Any:
        issue = context.stream_slice["parent"]
        return ("projects", issue["project_id"], "issues", issue["id"], "comments")


async def test_three_levels_are_complete_with_one_request_per_page() -> None:
    resources = (
        Resource("projects", 30, total=True),
        Resource("issues", (0, 45), parent="projects", total=True),
        Resource("comments", (0, 3), parent="issues", total=True),
    )
    async with MockApi(*resources, latency=(0.0, 0.01), seed=5) as served:
        projects = Projects()
        issues = Issues(parent=projects)
        comments = Comments(parent=issues)
        for stream in (projects, issues, comments):
            stream.url_base = served.url
        parents = [(project, issue) for project in served.ids("projects") for issue in served.ids("issues", project)]

        found = await comments.read()

        assert sorted_ids(found) == sorted(id_ for parent in parents for id_ in served.ids("comments", *parent))
        assert served.counts.by_resource["projects"] == 2
        pages = sum(max(1, -(-len(served.ids("issues", project)) // 20)) for project in served.ids("projects"))
        assert served.counts.by_resource["issues"] == pages
