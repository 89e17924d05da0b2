"""Properties of random trees of streams, with random latencies, failures, limits and caches."""

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
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams import Backoff, Cursor, HttpStatusError, HttpStream, HttpSubStream, PageNumber, RequestContext, Source
from asyncstreams.errors import PartialFailure
from asyncstreams.testing import VirtualClock

PAGINATORS = (Cursor("next", param="page"), PageNumber(start=0, total_pages="pages"))


class Node(NamedTuple):
    """A stream of the tree. `counts` are record numbers, of which the parent id selects one."""

    name: str
    parent: str | None
    size: int
    counts: list[int]
    paginator: Any
    is_listed: bool
    is_shared: bool


class PageKey(NamedTuple):
    """The stream, parent id and number of a page; the parent id is empty for the top stream."""

    stream: str
    parent_id: str
    page: int


Tree = dict[str, Node]


class Settings:
    """Settings of all streams of the tree."""

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
    """`aa/7?page=0`, ... for parent 7; the first slice comes after `pause` seconds."""

    def path(self, context: RequestContext) -> tuple[str, str]:
        return (self.name, context.stream_slice["parent"]["id"])

    async def stream_slices(self, state: Any) -> AsyncIterator[Any]:
        await asyncio.sleep(self.pause)
        async for stream_slice in super().stream_slices(state):
            yield stream_slice


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """One to three levels, with one to three children per stream; a name is the parent's name and one letter."""

    def node(name: str, counts: st.SearchStrategy[int]) -> Node:
        return Node(
            name,
            parent=name[:-1] or None,
            size=draw(st.integers(1, 5)),
            counts=draw(st.lists(counts, min_size=1, max_size=1 if len(name) == 1 else 5)),
            paginator=draw(st.sampled_from(PAGINATORS)),
            is_listed=draw(st.booleans()),
            is_shared=draw(st.booleans()),
        )

    tree = {"a": node("a", st.integers(0, 30))}
    level = ["a"]
    for _ in range(draw(st.integers(0, 2))):
        level = [parent + letter for parent in level for letter in "abc"[: draw(st.integers(1, 3))]][:4]
        tree |= {name: node(name, st.integers(0, 3)) for name in level}
    return tree


@st.composite
def scenarios(draw: st.DrawFn) -> dict[str, Any]:
    """A tree, the selected streams, pages that fail before they succeed, and latencies of API and consumer."""
    tree = draw(trees())
    statuses = st.lists(st.sampled_from([500, 429]), min_size=1, max_size=2)
    return {
        "tree": tree,
        "selected": draw(st.sets(st.sampled_from(sorted(tree)), min_size=1)),
        "transient_failures": draw(st.dictionaries(st.sampled_from(pages_in(tree)), statuses, max_size=6)),
        "permanent_failure": None,
        "limit": None,
        "cached": draw(st.sets(st.sampled_from(sorted(tree)))),
        "latencies": draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 2.0, 7.0]), min_size=1, max_size=7)),
        "pauses": draw(st.lists(st.sampled_from([0.0, 0.0, 0.3, 5.0]), min_size=1, max_size=5)),
        "max_concurrency": draw(st.integers(1, 9)),
        "break_after": None,
    }


@st.composite
def scenarios_with_failure(draw: st.DrawFn) -> dict[str, Any]:
    """A scenario in which one page always fails."""
    scenario = draw(scenarios())
    pages = pages_in({name: node for name, node in scenario["tree"].items() if name in streams_read(scenario)})
    return scenario | {"permanent_failure": (draw(st.sampled_from(pages)), draw(st.sampled_from([400, 500])))}


def ids_below(node: Node, parent_id: str) -> list[str]:
    count = node.counts[crc32(parent_id.encode()) % len(node.counts)]
    return [f"{parent_id}-{n}" if parent_id else str(n) for n in range(count)]


def ids_by_parent(tree: Tree, name: str, failing: PageKey | None = None) -> dict[str, list[str]]:
    """The ids of a stream that can be read, by parent id, up to the page that always fails."""
    node = tree[name]
    parent_ids = [""]
    if node.parent is not None:
        parent_ids = [id_ for ids in ids_by_parent(tree, node.parent, failing).values() for id_ in ids]
    found = {parent_id: ids_below(node, parent_id) for parent_id in parent_ids}
    if failing is not None and failing.stream == name and failing.parent_id in found:
        found[failing.parent_id] = found[failing.parent_id][: failing.page * node.size]
    return found


def pages_in(tree: Tree) -> list[PageKey]:
    return [
        PageKey(name, parent_id, page)
        for name, node in tree.items()
        for parent_id, ids in ids_by_parent(tree, name).items()
        for page in range(page_count(len(ids), node.size))
    ]


def page_count(count: int, size: int) -> int:
    return max(1, -(-count // size))


def streams_read(scenario: dict[str, Any]) -> set[str]:
    """The names of the selected streams and their ancestors."""
    return {name[:end] for name in scenario["selected"] for end in range(1, len(name) + 1)}


class ScenarioRun:
    """One run of a scenario; consecutive runs can share a `cache_dir`.

    It has no timeout: while a thread works on a file, virtual time jumps to the next timer.
    """

    def __init__(self, scenario: dict[str, Any], cache_dir: str, start: float = 0) -> None:
        self.scenario, self.cache_dir = scenario, cache_dir
        self.tree: Tree = scenario["tree"]
        self.failing, self.status = scenario["permanent_failure"] or (None, 0)
        self.requests: Counter[PageKey] = Counter()
        self.served: Counter[PageKey] = Counter()
        self.found: list[tuple[PageKey, Any, list[Any]]] = []
        self.clock = VirtualClock(start)
        self.api = Api(self.respond, self.latency)
        self.shared: dict[str, Any] = {}
        self.open_requests = 0
        self.error: BaseException | None = None

    def latency(self, request: httpx.Request) -> float:
        return self.scenario["latencies"][crc32(str(request.url).encode()) % len(self.scenario["latencies"])]

    def respond(self, request: httpx.Request) -> httpx.Response:
        name, _, parent_id = request.url.path[1:].partition("/")
        page = PageKey(name, parent_id, int(request.url.params.get("page", 0)))
        failures = self.scenario["transient_failures"].get(page, [])
        self.requests[page] += 1
        if page == self.failing:
            return httpx.Response(self.status)
        if self.requests[page] <= len(failures):
            return httpx.Response(failures[self.requests[page] - 1], headers={"Retry-After": "3"})
        self.served[page] += 1
        node = self.tree[name]
        ids = ids_below(node, parent_id)
        pages = page_count(len(ids), node.size)
        items = [record(name, id_) for id_ in ids[page.page * node.size :][: node.size]]
        following = page.page + 1 if page.page + 1 < pages else None
        return httpx.Response(200, json={"items": items, "next": following, "pages": pages})

    def stream(self, name: str) -> Any:
        """The stream `name`, with a parent that its siblings share, or with an equal parent of its own."""
        node = self.tree[name]
        if name in self.shared and node.is_shared:
            return self.shared[name]
        options = {"cache_dir": self.cache_dir}
        if node.parent is None:
            stream: Any = Top(node, self.api, self.clock, **options)
        else:
            stream = Below(node, self.api, self.clock, parent=self.stream(node.parent), **options)
        stream.use_cache = name in self.scenario["cached"]
        return self.shared.setdefault(name, stream) if node.is_shared else stream

    async def run(self) -> None:
        self.clock.monotonic()
        selected = self.scenario["selected"]
        listed = [self.stream(name) for name, node in self.tree.items() if node.is_listed or name in selected]
        source = Source(listed, max_concurrency=self.scenario["max_concurrency"], seed=7)
        try:
            async with source.pages(*sorted(selected), limit=self.scenario["limit"]) as pages:
                async for page in pages:
                    parent_id = page.stream_slice.get("parent", {"id": ""})["id"]
                    self.found.append((PageKey(page.stream, parent_id, page.number), page.stream_slice, page.records))
                    if self.scenario["break_after"] == len(self.found):
                        break
                    await asyncio.sleep(self.scenario["pauses"][len(self.found) % len(self.scenario["pauses"])])
        except (PartialFailure, HttpStatusError) as error:
            self.error = error
        self.open_requests = self.api.in_flight

    def records(self) -> dict[str, list[str]]:
        """The delivered ids of each selected stream, sorted."""
        found: dict[str, list[str]] = {name: [] for name in self.scenario["selected"]}
        for page, _, records in self.found:
            found[page.stream] += [record["id"] for record in records]
        return {name: sorted(ids) for name, ids in found.items()}

    def expected(self) -> dict[str, list[str]]:
        """The ids of each selected stream that can be read, sorted."""
        return {
            name: sorted(id_ for ids in ids_by_parent(self.tree, name, self.failing).values() for id_ in ids)
            for name in self.scenario["selected"]
        }


def record(stream: str, id_: str) -> dict[str, Any]:
    return {"id": id_, "of": {"stream": stream, "odd": [None, "söhne", -0.1]}}


def run(scenario: dict[str, Any], cache_dir: str, previous: ScenarioRun | None = None) -> ScenarioRun:
    """Run a scenario; its clock starts at the end of the previous run."""
    finished = ScenarioRun(scenario, cache_dir, 1.7e9 if previous is None else previous.clock.wall())
    with real_timeout(30):
        asyncio.run(finished.run())
    return finished


def all_pages(scenario: dict[str, Any]) -> list[PageKey]:
    """The pages that a complete run of a scenario reads."""
    return [page for page in pages_in(scenario["tree"]) if page.stream in streams_read(scenario)]


@examples(full=60, short=12)
@given(scenarios())
def test_property_each_record_and_each_page_comes_once(scenario: dict[str, Any]) -> None:
    with TemporaryDirectory() as path:
        result = run(scenario, path)

    assert result.error is None
    assert result.records() == result.expected()
    assert result.served == Counter(all_pages(scenario))
    failures = {
        page: len(statuses) for page, statuses in scenario["transient_failures"].items() if page in result.served
    }
    assert result.requests == result.served + Counter(failures)
    assert result.api.peak_in_flight <= scenario["max_concurrency"]
    assert result.open_requests == 0


@examples(full=40, short=10)
@given(scenarios())
def test_property_slices_are_parent_records_and_pages_in_order(scenario: dict[str, Any]) -> None:
    with TemporaryDirectory() as path:
        result = run(scenario, path)

    pages: dict[tuple[str, str], list[str]] = {}
    for page, stream_slice, records in result.found:
        parent = scenario["tree"][page.stream].parent
        assert stream_slice == ({} if parent is None else {"parent": record(parent, page.parent_id)})
        ids = [item["id"] for item in records]
        assert records == [record(page.stream, id_) for id_ in ids]
        pages.setdefault((page.stream, page.parent_id), []).extend(ids)
    for name in scenario["selected"]:
        for parent_id, ids in ids_by_parent(scenario["tree"], name).items():
            assert pages.get((name, parent_id), []) == ids


@examples(full=60, short=12)
@given(scenarios(), st.integers(0, 12))
def test_property_each_stream_delivers_records_up_to_the_limit(scenario: dict[str, Any], limit: int) -> None:
    with TemporaryDirectory() as path:
        result = run(scenario | {"limit": limit}, path)

    assert result.error is None
    for name, ids in result.expected().items():
        found = result.records()[name]
        assert len(found) == len(set(found)) == min(limit, len(ids))
        assert set(found) <= set(ids)
    assert max(result.served.values(), default=0) <= 1
    assert {page.stream for page in result.requests} <= streams_read(scenario)
    assert result.open_requests == 0


@examples(full=60, short=12)
@given(scenarios_with_failure())
def test_property_failing_page_loses_only_what_depends_on_it(scenario: dict[str, Any]) -> None:
    with TemporaryDirectory() as path:
        result = run(scenario, path)

    page, status = scenario["permanent_failure"]
    assert result.records() == result.expected()
    assert max(result.served.values(), default=0) <= 1
    children = {name for name in streams_read(scenario) if name[:-1] == page.stream}
    errors = result.error.errors if isinstance(result.error, PartialFailure) else (result.error,)
    (failed,) = {id(error): error for error in errors if isinstance(error, HttpStatusError)}.values()
    assert (failed.stream, failed.page, failed.status) == (page.stream, page.page, status)
    if len({(page.stream, page.parent_id) for page in result.requests}) == 1:
        assert result.error is failed, "a run that started one slice raises the error of that slice"
    elif children:
        assert isinstance(result.error, PartialFailure)
        assert "stopped early" in str(result.error)
    assert result.open_requests == 0


@examples(full=40, short=10)
@given(scenarios())
def test_property_cached_parents_are_not_requested_again(scenario: dict[str, Any]) -> None:
    with TemporaryDirectory() as path:
        first = run(scenario, path)
        files = [file.name.rpartition("-")[0] for file in Path(path).glob("*.parents")]
        unfinished = [*Path(path).rglob("*.partial")]
        again = run(scenario, path, first)

    assert again.records() == first.records() == first.expected()
    assert (sorted(files), unfinished) == (sorted(streams_read(scenario) & scenario["cached"]), [])
    needed = {name for name in streams_read(scenario) if is_needed(name, scenario["selected"], scenario["cached"])}
    assert again.served == Counter(page for page in all_pages(scenario) if page.stream in needed)


def is_needed(name: str, selected: set[str], cached: set[str]) -> bool:
    """Whether a second run requests a stream: it is selected, or a descendant needs it and it is not cached."""
    if name in selected or name in cached:
        return name in selected
    children = {other[: len(name) + 1] for other in selected if other != name and other.startswith(name)}
    return any(is_needed(child, selected, cached) for child in children)


@examples(full=40, short=10)
@given(scenarios_with_failure())
def test_property_failed_reads_are_not_cached(scenario: dict[str, Any]) -> None:
    with TemporaryDirectory() as path:
        again = run(scenario | {"permanent_failure": None}, path, run(scenario, path))

    assert again.error is None
    assert again.records() == again.expected()


@examples(full=40, short=10)
@given(scenarios(), st.integers(1, 40))
def test_property_reads_left_early_are_not_cached(scenario: dict[str, Any], break_after: int) -> None:
    with TemporaryDirectory() as path:
        left_early = run(scenario | {"break_after": break_after}, path)
        again = run(scenario, path, left_early)

    assert left_early.open_requests == 0
    assert again.records() == again.expected()


@st.composite
def single_branches(draw: st.DrawFn) -> dict[str, Any]:
    """One stream per level and no failures, so that the pages that a limit needs can be computed."""
    scenario = draw(scenarios())
    levels = draw(st.integers(2, 3))
    names = ["a", "aa", "aaa"][:levels]
    tree = {name: draw(trees())["a"]._replace(name=name, parent=name[:-1] or None) for name in names}
    for name in names[1:]:
        tree[name] = tree[name]._replace(counts=draw(st.lists(st.integers(0, 3), min_size=1, max_size=5)))
    return scenario | {"tree": tree, "selected": {names[-1]}, "transient_failures": {}, "cached": set()}


def needed_pages(tree: Tree, name: str, records: int) -> Counter[str]:
    """The number of pages of this stream and of each ancestor that its first `records` records need."""
    node, pages, remaining = tree[name], 0, records
    parents = 0
    for ids in ids_by_parent(tree, name).values():
        if remaining <= 0:
            break
        parents += 1
        pages += page_count(min(remaining, len(ids)), node.size)
        remaining -= len(ids)
    if node.parent is None:
        return Counter({name: pages})
    return needed_pages(tree, node.parent, parents if remaining <= 0 else 10**9) + Counter({name: pages})


@examples(full=60, short=12)
@given(single_branches(), st.integers(1, 12))
def test_property_limit_requests_only_the_pages_it_needs(scenario: dict[str, Any], limit: int) -> None:
    with TemporaryDirectory() as path:
        result = run(scenario | {"limit": limit}, path)

    requested = Counter(page.stream for page in result.requests)
    assert requested == needed_pages(scenario["tree"], max(scenario["selected"]), limit)


@pytest.mark.parametrize("name", ["aa", "aaa"])
def test_limit_of_zero_sends_no_request(name: str) -> None:
    tree = {
        node: Node(node, node[:-1] or None, 2, [4], PAGINATORS[0], is_listed=True, is_shared=True)
        for node in ("a", "aa", "aaa")[: len(name)]
    }
    scenario = {
        "tree": tree,
        "selected": {name},
        "transient_failures": {},
        "permanent_failure": None,
        "limit": 0,
        "cached": set(),
        "latencies": [1.0],
        "pauses": [0.0],
        "max_concurrency": 8,
        "break_after": None,
    }

    result = run(scenario, "")

    assert (result.records(), result.requests) == ({name: []}, Counter())


class LateBelow(Below):
    pause = 2.0


@pytest.mark.parametrize("selected", [False, True], ids=["not-selected", "selected"])
@pytest.mark.parametrize("seconds", [0.05, 1.0], ids=["parent-finished", "parent-being-read"])
@pytest.mark.parametrize("paginator", PAGINATORS, ids=["cursor", "number"])
async def test_late_child_gets_all_of_a_parent_that_is_fetched_once(
    virtual_clock: VirtualClock, selected: bool, seconds: float, paginator: Any
) -> None:
    def node(name: str, *counts: int) -> Node:
        return Node(name, name[:-1] or None, 3, list(counts), paginator, is_listed=True, is_shared=True)

    tree = {"a": node("a", 20), "aa": node("aa", 2, 0), "ab": node("ab", 1, 5)}
    names = ["aa", "ab", *(["a"] if selected else [])]
    scenario = {"tree": tree, "permanent_failure": None, "transient_failures": {}, "latencies": [seconds]}
    result = ScenarioRun(scenario, "")
    top = Top(tree["a"], result.api, virtual_clock, adaptive=False)
    first_page_at: dict[str, float] = {}
    options = {"adaptive": False, "parent": top}
    early = Below(tree["aa"], result.api, virtual_clock, **options)
    late = LateBelow(tree["ab"], result.api, virtual_clock, **options)
    source = Source([top, early, late])
    start = virtual_clock.monotonic()

    found: dict[str, list[str]] = {name: [] for name in tree}
    async with source.pages(*names) as pages:
        async for page in pages:
            first_page_at.setdefault(page.stream, virtual_clock.monotonic() - start)
            found[page.stream] += [record["id"] for record in page.records]

    for name in names:
        assert sorted(found[name]) == sorted(id_ for ids in ids_by_parent(tree, name).values() for id_ in ids)
    assert result.served == Counter(pages_in(tree))
    assert first_page_at["aa"] == pytest.approx(2 * seconds, abs=0.2)
    assert first_page_at["ab"] == pytest.approx(2 + seconds, abs=0.2)
