"""Projects, issues and comments: three levels of substreams, each parent read once. It needs no network.

python examples/tree.py
"""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

from asyncstreams import HttpStream, HttpSubStream, PageNumber, Record, RequestContext, Source
from asyncstreams.testing import MockApi, Resource


class Projects(HttpStream):
    """The root of the tree."""

    primary_key = "id"
    records_path = "data"
    paginator = PageNumber(total_pages="meta.pages")

    def path(self, context: RequestContext) -> str:
        return "projects"


class ProjectChild(HttpSubStream):
    """Base class of the children of projects: one slice for each project, whose id path() uses."""

    primary_key = "id"
    records_path = "data"
    paginator = PageNumber(total_pages="meta.pages")
    parent_fields = ("id",)

    def path(self, context: RequestContext) -> tuple[str | int, ...]:
        return ("projects", context.stream_slice["parent"]["id"], self.name)


class Releases(ProjectChild):
    """The releases of each project."""


class Issues(ProjectChild):
    """The issues of each project, and the parent of the comments."""


class Comments(HttpSubStream):
    """The comments of each issue, whose record contains the id of its project."""

    records_path = "data"
    parent_fields = ("id", "project_id")

    def path(self, context: RequestContext) -> tuple[str | int, ...]:
        issue = context.stream_slice["parent"]
        return ("projects", issue["project_id"], "issues", issue["id"], "comments")


def comment(number: int, rng: Random) -> Record:
    return {"id": number, "author": rng.choice(("Ada", "Femi", "Lena", "Noor"))}


TRACKER = MockApi(
    Resource("projects", 25, page_size=10, total=True),
    Resource("releases", (0, 3), parent="projects", total=True),
    Resource("issues", (0, 12), parent="projects", total=True),
    Resource("comments", (0, 5), parent="issues", record=comment),
    seed=1,
)


async def main() -> None:
    projects = Projects()
    issues = Issues(parent=projects)
    streams = [projects, issues, Releases(parent=projects), Comments(parent=issues)]
    record_counts, authors = Counter[str](), Counter[str]()

    async with TRACKER as api:
        for stream in streams:
            stream.url_base = api.url
        async with Source(streams).pages() as pages:
            async for page in pages:
                record_counts[page.stream] += len(page.records)
                if page.stream == "comments":
                    authors.update(record["author"] for record in page.records)

    requests = TRACKER.counts.by_resource
    for stream in streams:
        print(f"{record_counts[stream.name]:>4} {stream.name:<9} in {requests[stream.name]:>3} requests")
    author, count = authors.most_common(1)[0]
    print(f"most comments: {author}, with {count}")
    print(f"requests for projects, the parent of two streams: {requests['projects']}")


if __name__ == "__main__":
    asyncio.run(main())
