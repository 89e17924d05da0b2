"""Whatever trees of streams, latencies, failures and limits there are: what comes of them, and what is asked for?"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from zlib import crc32

import httpx
import pytest
from fake_api import Api, real_timeout
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncstreams import Backoff, Cursor, HttpStatusError, HttpStream, HttpSubStream, PageNumber, RequestContext, Source
from asyncstreams.errors import PartialFailure
from asyncstreams.testing import VirtualClock

PAGINATORS = (Cursor("next", param="page"), PageNumber(start=0, total_pages="pages"))
ENDED = "stopped early"


class Node(NamedTuple):
    """A stream of the tree: each record of `parent` has `counts[...]` records in it, the API has `counts[0]` on top."""

    name: str
    parent: str | None
    size: int
    counts: list[int]
    paginator: Any
    listed: bool
    shared: bool


class Place(NamedTuple):
    """A page: of which stream, below which parent, and its number."""

    stream: str
    above: str
    page: int


Tree = dict[str, Node]


class Settings:
    """What both levels have in common."""

    url_base = "https://api.test/"
    records_path = "items"
    backoff = Backoff(base=0, cap=0)
    max_tries = 4
    cache_ttl = 1e9
    pause = 0.0

    def __init__(self, node: Node, api: Api, clock: VirtualClock, **options: Any) -> None:
        self.name, self.paginator = node.name, node.paginator
        super().__init__(transport=api, clock=clock, **options)


class Top(Settings, HttpStream):
    """`a?page=0`, ..."""

    def path(self, context: RequestContext) -> str:
        return self.name


class Below(Settings, HttpSubStream):
    """`aa/7?page=0`, ... for parent 7; the first slice comes after a pause."""

    def path(self, context: RequestContext) -> tuple[str, str]:
        return (self.name, context.stream_slice["parent"]["id"])

    async def stream_slices(self, state: Any) -> AsyncIterator[Any]:
        await asyncio.sleep(self.pause)
        async for one in super().stream_slices(state):
            yield one


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """One to three levels, and one to three children of each stream; the name of each begins with its parent's."""

    def node(name: str, counts: st.SearchStrategy[int]) -> Node:
        return Node(
            name,
            parent=name[:-1] or None,
            size=draw(st.integers(1, 5)),
            counts=draw(st.lists(counts, min_size=1, max_size=1 if len(name) == 1 else 5)),
            paginator=draw(st.sampled_from(PAGINATORS)),
            listed=draw(st.booleans()),
            shared=draw(st.booleans()),
        )

    tree = {"a": node("a", st.integers(0, 30))}
    level = ["a"]
    for _ in range(draw(st.integers(0, 2))):
        level = [above + letter for above in level for letter in "abc"[: draw(st.integers(1, 3))]][:4]
        tree |= {name: node(name, st.integers(0, 3)) for name in level}
    return tree


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, Any]:
    """A tree; who of it is selected; what fails, which is mended by asking again; how slow everybody is."""
    tree = draw(trees())
    return {
        "tree": tree,
        "selected": draw(st.sets(st.sampled_from(sorted(tree)), min_size=1)),
        "sick": draw(
            st.dictionaries(
                st.sampled_from(places(tree)), st.lists(st.sampled_from([500, 429]), min_size=1, max_size=2), max_size=6
            )
        ),
        "dead": None,
        "limit": None,
        "kept": draw(st.sets(st.sampled_from(sorted(tree)))),
        "latencies": draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 2.0, 7.0]), min_size=1, max_size=7)),
        "pauses": draw(st.lists(st.sampled_from([0.0, 0.0, 0.3, 5.0]), min_size=1, max_size=5)),
        "most": draw(st.integers(1, 9)),
        "leave": None,
    }


@st.composite
def worlds_with_a_failure(draw: st.DrawFn) -> dict[str, Any]:
    """One page fails for ever."""
    world = draw(worlds())
    where = places({name: node for name, node in world["tree"].items() if name in read_of(world)})
    return world | {"dead": (draw(st.sampled_from(where)), draw(st.sampled_from([410, 500])))}


def ids_in(node: Node, above: str) -> list[str]:
    count = node.counts[crc32(above.encode()) % len(node.counts)]
    return [f"{above}-{n}" if above else str(n) for n in range(count)]


def given_by(tree: Tree, name: str, dead: Place | None = None) -> dict[str, list[str]]:
    """What there is to be read below each parent, as far as the page that fails."""
    node = tree[name]
    above = [""] if node.parent is None else [one for ids in given_by(tree, node.parent, dead).values() for one in ids]
    found = {one: ids_in(node, one) for one in above}
    if dead is not None and dead.stream == name and dead.above in found:
        found[dead.above] = found[dead.above][: dead.page * node.size]
    return found


def places(tree: Tree) -> list[Place]:
    return [
        Place(name, above, page)
        for name, node in tree.items()
        for above, ids in given_by(tree, name).items()
        for page in range(pages_for(len(ids), node.size))
    ]


def pages_for(count: int, size: int) -> int:
    return max(1, -(-count // size))


def read_of(world: dict[str, Any]) -> set[str]:
    """The selected streams and all that are above them."""
    return {name[:end] for name in world["selected"] for end in range(1, len(name) + 1)}


class World:
    """One run in such a world; `cache_dir` is for several, which begin one after another.

    No timeout is in it: while a thread works on a file, virtual time leaps to the next timer.
    """

    def __init__(self, world: dict[str, Any], cache_dir: str, start: float = 0) -> None:
        self.world, self.cache_dir = world, cache_dir
        self.tree: Tree = world["tree"]
        self.dead, self.status = world["dead"] or (None, 0)
        self.tries: Counter[Place] = Counter()
        self.served: Counter[Place] = Counter()
        self.found: list[tuple[Place, Any, list[Any]]] = []
        self.clock = VirtualClock(start)
        self.api = Api(self.answer, self.seconds)
        self.made: dict[str, Any] = {}
        self.waiting = 0
        self.error: BaseException | None = None

    def seconds(self, request: httpx.Request) -> float:
        return self.world["latencies"][crc32(str(request.url).encode()) % len(self.world["latencies"])]

    def answer(self, request: httpx.Request) -> httpx.Response:
        name, _, above = request.url.path[1:].partition("/")
        place = Place(name, above, int(request.url.params.get("page", 0)))
        sick = self.world["sick"].get(place, [])
        self.tries[place] += 1
        if place == self.dead:
            return httpx.Response(self.status)
        if self.tries[place] <= len(sick):
            return httpx.Response(sick[self.tries[place] - 1], headers={"Retry-After": "3"})
        self.served[place] += 1
        node = self.tree[name]
        ids = ids_in(node, above)
        pages = pages_for(len(ids), node.size)
        page = ids[place.page * node.size :][: node.size]
        following = place.page + 1 if place.page + 1 < pages else None
        return httpx.Response(
            200, json={"items": [record(name, one) for one in page], "next": following, "pages": pages}
        )

    def stream(self, name: str) -> Any:
        """The stream, with the parent that all children have, or with one of its own that equals it."""
        node = self.tree[name]
        if name in self.made and node.shared:
            return self.made[name]
        options = {"cache_dir": self.cache_dir}
        if node.parent is None:
            stream: Any = Top(node, self.api, self.clock, **options)
        else:
            stream = Below(node, self.api, self.clock, parent=self.stream(node.parent), **options)
        stream.use_cache = name in self.world["kept"]
        return self.made.setdefault(name, stream) if node.shared else stream

    async def run(self) -> None:
        self.clock.monotonic()
        selected = self.world["selected"]
        listed = [self.stream(name) for name, node in self.tree.items() if node.listed or name in selected]
        source = Source(listed, max_concurrency=self.world["most"], seed=7)
        try:
            async with source.pages(*sorted(selected), limit=self.world["limit"]) as pages:
                async for page in pages:
                    above = page.stream_slice.get("parent", {"id": ""})["id"]
                    self.found.append((Place(page.stream, above, page.number), page.stream_slice, page.records))
                    if self.world["leave"] == len(self.found):
                        break
                    await asyncio.sleep(self.world["pauses"][len(self.found) % len(self.world["pauses"])])
        except (PartialFailure, HttpStatusError) as error:
            self.error = error
        self.waiting = self.api.in_flight

    def records(self) -> dict[str, list[str]]:
        """The ids that came of each stream."""
        found: dict[str, list[str]] = {name: [] for name in self.world["selected"]}
        for place, _, records in self.found:
            found[place.stream] += [one["id"] for one in records]
        return {name: sorted(ids) for name, ids in found.items()}

    def expected(self) -> dict[str, list[str]]:
        return {
            name: sorted(one for ids in given_by(self.tree, name, self.dead).values() for one in ids)
            for name in self.world["selected"]
        }


def record(stream: str, one: str) -> dict[str, Any]:
    return {"id": one, "of": {"stream": stream, "odd": [None, "söhne", -0.1]}}


def run(world: dict[str, Any], cache_dir: str, before: World | None = None) -> World:
    lived = World(world, cache_dir, 1.7e9 if before is None else before.clock.wall())
    with real_timeout(30):
        asyncio.run(lived.run())
    return lived


def all_places(world: dict[str, Any]) -> list[Place]:
    return [place for place in places(world["tree"]) if place.stream in read_of(world)]


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_property_each_record_comes_once_and_each_page_is_asked_for_once(world: dict[str, Any]) -> None:
    with TemporaryDirectory() as path:
        lived = run(world, path)

    assert lived.error is None
    assert lived.records() == lived.expected()
    assert lived.served == Counter(all_places(world))
    assert lived.tries == lived.served + Counter(
        {place: len(sick) for place, sick in world["sick"].items() if place in lived.served}
    )
    assert lived.api.peak_in_flight <= world["most"]
    assert lived.waiting == 0


@settings(max_examples=40, deadline=None)
@given(worlds())
def test_property_each_slice_is_a_record_of_the_parent_and_its_pages_are_in_order(world: dict[str, Any]) -> None:
    with TemporaryDirectory() as path:
        lived = run(world, path)

    pages: dict[tuple[str, str], list[str]] = {}
    for place, found, records in lived.found:
        parent = world["tree"][place.stream].parent
        assert found == ({} if parent is None else {"parent": record(parent, place.above)})
        assert records == [record(place.stream, one["id"]) for one in records]
        pages.setdefault((place.stream, place.above), []).extend(one["id"] for one in records)
    for name in world["selected"]:
        for above, ids in given_by(world["tree"], name).items():
            assert pages.get((name, above), []) == ids


@settings(max_examples=60, deadline=None)
@given(worlds(), st.integers(0, 12))
def test_property_a_limit_is_kept_by_each_stream_and_reached_where_there_is_enough(
    world: dict[str, Any], limit: int
) -> None:
    with TemporaryDirectory() as path:
        lived = run(world | {"limit": limit}, path)

    assert lived.error is None
    for name, ids in lived.expected().items():
        found = lived.records()[name]
        assert len(found) == len(set(found)) == min(limit, len(ids))
        assert set(found) <= set(ids)
    assert max(lived.served.values(), default=0) <= 1
    assert {place.stream for place in lived.tries} <= read_of(world)
    assert lived.waiting == 0


@settings(max_examples=60, deadline=None)
@given(worlds_with_a_failure())
def test_property_a_page_that_fails_costs_what_lies_below_it_and_nothing_else(world: dict[str, Any]) -> None:
    with TemporaryDirectory() as path:
        lived = run(world, path)

    place, status = world["dead"]
    assert lived.records() == lived.expected()
    assert max(lived.served.values(), default=0) <= 1
    children = {name for name in read_of(world) if name[:-1] == place.stream}
    errors = lived.error.errors if isinstance(lived.error, PartialFailure) else (lived.error,)
    (failed,) = {id(error): error for error in errors if isinstance(error, HttpStatusError)}.values()
    assert (failed.stream, failed.page, failed.status) == (place.stream, place.page, status)
    if children:
        assert isinstance(lived.error, PartialFailure)
        assert ENDED in str(lived.error)
    assert lived.waiting == 0


@settings(max_examples=40, deadline=None)
@given(worlds())
def test_property_what_is_kept_of_a_parent_is_not_asked_for_again(world: dict[str, Any]) -> None:
    with TemporaryDirectory() as path:
        first = run(world, path)
        files = [file.name.rpartition("-")[0] for file in Path(path).glob("*.parents")]
        unfinished = [*Path(path).rglob("*.partial")]
        again = run(world, path, first)

    assert again.records() == first.records() == first.expected()
    assert (sorted(files), unfinished) == (sorted(read_of(world) & world["kept"]), [])
    needed = {name for name in read_of(world) if is_needed(name, world["selected"], world["kept"])}
    assert again.served == Counter(place for place in all_places(world) if place.stream in needed)


def is_needed(name: str, selected: set[str], kept: set[str]) -> bool:
    """Whether a stream is read itself, or has a child that needs a request for its slices."""
    if name in selected or name in kept:
        return name in selected
    children = {one[: len(name) + 1] for one in selected if one != name and one.startswith(name)}
    return any(is_needed(child, selected, kept) for child in children)


@settings(max_examples=40, deadline=None)
@given(worlds_with_a_failure())
def test_property_what_failed_is_not_kept(world: dict[str, Any]) -> None:
    with TemporaryDirectory() as path:
        again = run(world | {"dead": None}, path, run(world, path))

    assert again.error is None
    assert again.records() == again.expected()


@settings(max_examples=40, deadline=None)
@given(worlds(), st.integers(1, 40))
def test_property_what_was_left_early_is_not_kept_and_leaves_nothing_open(world: dict[str, Any], leave: int) -> None:
    with TemporaryDirectory() as path:
        left = run(world | {"leave": leave}, path)
        again = run(world, path, left)

    assert left.waiting == 0
    assert again.records() == again.expected()


@st.composite
def chains(draw: st.DrawFn) -> dict[str, Any]:
    """One stream below another, in order and with no failures, so that what a limit needs can be told."""
    world = draw(worlds())
    levels = draw(st.integers(2, 3))
    names = ["a", "aa", "aaa"][:levels]
    tree = {name: draw(trees())["a"]._replace(name=name, parent=name[:-1] or None) for name in names}
    for name in names[1:]:
        tree[name] = tree[name]._replace(counts=draw(st.lists(st.integers(0, 3), min_size=1, max_size=5)))
    return world | {"tree": tree, "selected": {names[-1]}, "sick": {}, "kept": set()}


def needed_pages(tree: Tree, name: str, records: int) -> Counter[str]:
    """The pages of each stream, from the top down to this one, that its first so many records need."""
    node, asked, left = tree[name], 0, records
    parents = 0
    for ids in given_by(tree, name).values():
        if left <= 0:
            break
        parents += 1
        asked += pages_for(min(left, len(ids)), node.size)
        left -= len(ids)
    above = Counter() if node.parent is None else needed_pages(tree, node.parent, parents if left <= 0 else 10**9)
    return above + Counter({name: asked})


@settings(max_examples=60, deadline=None)
@given(chains(), st.integers(1, 12))
def test_property_a_limit_asks_for_no_more_pages_than_it_needs(world: dict[str, Any], limit: int) -> None:
    with TemporaryDirectory() as path:
        lived = run(world | {"limit": limit}, path)

    asked = Counter(place.stream for place in lived.tries)
    needed = needed_pages(world["tree"], max(world["selected"]), limit)
    assert asked == needed


@pytest.mark.parametrize("name", ["aa", "aaa"])
def test_a_limit_of_nothing_asks_for_nothing(name: str) -> None:
    tree = {
        above: Node(above, above[:-1] or None, 2, [4], PAGINATORS[0], listed=True, shared=True)
        for above in ("a", "aa", "aaa")[: len(name)]
    }
    world = {"tree": tree, "selected": {name}, "sick": {}, "dead": None, "kept": set(), "leave": None, "limit": 0}

    lived = run(world | {"latencies": [1.0], "pauses": [0.0], "most": 8}, "")

    assert (lived.records(), lived.tries) == ({name: []}, Counter())


class Late(Below):
    pause = 2.0


@pytest.mark.parametrize("selected", [False, True], ids=["not-selected", "selected"])
@pytest.mark.parametrize("seconds", [0.05, 1.0], ids=["the-parent-is-done", "the-parent-is-being-read"])
@pytest.mark.parametrize("paginator", PAGINATORS, ids=["cursor", "number"])
async def test_a_child_that_begins_late_gets_all_of_a_parent_that_is_fetched_once(
    virtual_clock: VirtualClock, selected: bool, seconds: float, paginator: Any
) -> None:
    def node(name: str, *counts: int) -> Node:
        return Node(name, name[:-1] or None, 3, list(counts), paginator, listed=True, shared=True)

    tree = {"a": node("a", 20), "aa": node("aa", 2, 0), "ab": node("ab", 1, 5)}
    names = ["aa", "ab", *(["a"] if selected else [])]
    lived = World({"tree": tree, "dead": None, "sick": {}, "latencies": [seconds]}, "")
    top = Top(tree["a"], lived.api, virtual_clock, adaptive=False)
    began: dict[str, float] = {}
    options = {"adaptive": False, "parent": top}
    children = [kind(tree[name], lived.api, virtual_clock, **options) for name, kind in (("aa", Below), ("ab", Late))]
    source = Source([top, *children])
    start = virtual_clock.monotonic()

    found: dict[str, list[str]] = {name: [] for name in tree}
    async with source.pages(*names) as pages:
        async for page in pages:
            began.setdefault(page.stream, virtual_clock.monotonic() - start)
            found[page.stream] += [one["id"] for one in page.records]

    for name in names:
        assert sorted(found[name]) == sorted(one for ids in given_by(tree, name).values() for one in ids)
    assert lived.served == Counter(places(tree))
    assert began["aa"] == pytest.approx(2 * seconds, abs=0.2)
    assert began["ab"] == pytest.approx(2 + seconds, abs=0.2)
