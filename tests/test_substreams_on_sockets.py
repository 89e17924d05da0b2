"""Are trees read whole over real sockets, with one request for each page of a parent?"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cached_tree import Below, Customers, Visits, streams

from asyncstreams import Source
from asyncstreams.testing import Fault, MockApi, Quota, Resource

pytestmark = pytest.mark.alone

COUNT, PAGES = 100, 5


def api(**options: Any) -> MockApi:
    return MockApi(
        Resource("customers", COUNT, total=True),
        Resource("orders", (0, 30), parent="customers", total=True),
        Resource("visits", (0, 3), parent="customers", total=True),
        seed=3,
        **options,
    )


def ids(records: list[Any]) -> list[Any]:
    return sorted(record["id"] for record in records)


def all_of(served: MockApi, name: str) -> list[Any]:
    return sorted(one for customer in served.ids("customers") for one in served.ids(name, customer))


async def test_children_of_two_kinds_and_their_parent_are_read_whole_with_one_request_for_each_of_its_pages(
    tmp_path: Path,
) -> None:
    async with api(latency=(0.0, 0.02)) as served:
        source = Source(streams(served.url, tmp_path))

        found = await source.read()

        assert ids(found["customers"]) == served.ids("customers")
        assert {name: ids(found[name]) for name in ("orders", "visits")} == {
            name: all_of(served, name) for name in ("orders", "visits")
        }
        assert served.counts.by_resource["customers"] == PAGES


async def test_a_parent_that_was_emitted_is_kept_by_the_same_read(tmp_path: Path) -> None:
    async with api() as served:
        customers, orders, visits = streams(served.url, tmp_path)
        await Source([customers, orders]).read()

        found = await visits.read()

        assert ids(found) == all_of(served, "visits")
        assert served.counts.by_resource["customers"] == PAGES


class LateVisits(Visits):
    name = "visits"

    async def stream_slices(self, state: Any) -> Any:
        await asyncio.sleep(2)
        async for one in super().stream_slices(state):
            yield one


async def test_a_child_that_begins_two_seconds_after_another_asks_for_no_parent(tmp_path: Path) -> None:
    async with api() as served:
        customers, orders, _ = streams(served.url, tmp_path)
        late = LateVisits(parent=customers)
        late.url_base = served.url

        found = await Source([orders, late]).read()

        assert (ids(found["orders"]), ids(found["visits"])) == (all_of(served, "orders"), all_of(served, "visits"))
        assert served.counts.by_resource["customers"] == PAGES


FAULTS: dict[str, Any] = {
    "faults": {"faults": [Fault.status(503, at=[2]), Fault.cut(at=[3]), Fault.reset(at=[1], resource="customers")]},
    "quota": {"quota": Quota(100, per=1, headers="ratelimit")},
}


@pytest.mark.parametrize("options", FAULTS.values(), ids=FAULTS)
async def test_what_goes_wrong_on_the_way_costs_neither_parents_nor_children(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    async with api(**options) as served:
        found = await Source(streams(served.url, tmp_path)).read()

        assert ids(found["customers"]) == served.ids("customers")
        assert (ids(found["orders"]), ids(found["visits"])) == (all_of(served, "orders"), all_of(served, "visits"))
        assert sum(served.counts.by_fault.values()) >= len(options.get("faults", ()))


class Projects(Customers):
    use_cache = False

    def path(self, context: Any) -> str:
        return "projects"


class Issues(Below):
    pass


class Comments(Below):
    parent_fields = ("project_id", "id")

    def path(self, context: Any) -> Any:
        issue = context.stream_slice["parent"]
        return ("projects", issue["project_id"], "issues", issue["id"], "comments")


async def test_three_levels_are_read_whole_and_each_page_above_once() -> None:
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
        above = [(project, issue) for project in served.ids("projects") for issue in served.ids("issues", project)]

        found = await comments.read()

        assert ids(found) == sorted(one for pair in above for one in served.ids("comments", *pair))
        assert served.counts.by_resource["projects"] == 2
        pages = sum(max(1, -(-len(served.ids("issues", one)) // 20)) for one in served.ids("projects"))
        assert served.counts.by_resource["issues"] == pages
