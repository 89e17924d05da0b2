"""What was said about each issue of each project? Three levels of streams, each of which is read once.

python examples/tree.py    # from an issue tracker that it starts on this machine
"""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

from asyncstreams import HttpStream, HttpSubStream, PageNumber, Record, RequestContext, Source
from asyncstreams.testing import MockApi, Resource


class Projects(HttpStream):
    """The top of the tree."""

    primary_key = "id"
    records_path = "data"
    paginator = PageNumber(total_pages="meta.pages")

    def path(self, context: RequestContext) -> str:
        return "projects"


class OfProject(HttpSubStream):
    """What lies below each project: a slice for each of them, of which path() needs the id."""

    primary_key = "id"
    records_path = "data"
    paginator = PageNumber(total_pages="meta.pages")
    parent_fields = ("id",)

    def path(self, context: RequestContext) -> tuple[str | int, ...]:
        return ("projects", context.stream_slice["parent"]["id"], self.name)


class Releases(OfProject):
    """One child of Projects."""


class Issues(OfProject):
    """The other one, and itself the parent of Comments."""


class Comments(HttpSubStream):
    """What lies below each issue, which says itself in which project it is."""

    records_path = "data"
    parent_fields = ("id", "project_id")

    def path(self, context: RequestContext) -> tuple[str | int, ...]:
        issue = context.stream_slice["parent"]
        return ("projects", issue["project_id"], "issues", issue["id"], "comments")


def comment(number: int, chance: Random) -> Record:
    return {"id": number, "author": chance.choice(("Ada", "Femi", "Lena", "Noor"))}


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
    read, authors = Counter[str](), Counter[str]()

    async with TRACKER as api:
        for stream in streams:
            stream.url_base = api.url
        async with Source(streams).pages() as pages:
            async for page in pages:
                read[page.stream] += len(page.records)
                if page.stream == "comments":
                    authors.update(record["author"] for record in page.records)

    asked = TRACKER.counts.by_resource
    for stream in streams:
        print(f"{read[stream.name]:>4} {stream.name:<9} in {asked[stream.name]:>3} requests")
    author, count = authors.most_common(1)[0]
    print(f"{author} wrote most: {count} comments")
    print(f"requests for projects, whose children are two streams: {asked['projects']}")


if __name__ == "__main__":
    asyncio.run(main())
