"""Children that the API refuses or does not have, and parents from which no request can be made."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_api import collect_pages
from incremental_api import WallClock

from asyncstreams import (
    HttpAvailabilityStrategy,
    HttpStatusError,
    HttpStream,
    HttpSubStream,
    InvalidSlice,
    JsonLines,
    PageNumber,
    PartialFailure,
    Slice,
    Source,
    SQLite,
    State,
    StreamUnavailable,
    TimeWindows,
    UnexpectedContent,
)


class Api:
    """Repos 1 to `count`, each with one issue; `status` maps repos to the status of their issues."""

    def __init__(self, count: int = 4, **fields: Any) -> None:
        self.repos: list[dict[str, Any]] = [
            {"id": number, "name": f"r{number}", **fields} for number in range(1, count + 1)
        ]
        self.status: dict[int, int] = {}
        self.empty: set[int] = set()
        self.requested: Counter[str] = Counter()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path[1:]
        self.requested[path] += 1
        if path == "repos":
            return httpx.Response(200, json=self.repos)
        number = int(path.split("/")[1])
        if (status := self.status.get(number, 200)) != 200:
            return httpx.Response(status, json={"message": "closed"})
        return httpx.Response(200, json=[] if number in self.empty else [{"id": number * 10, "at": "2024-01-15"}])


class Repos(HttpStream):
    url_base = "https://api.test/"
    primary_key = "id"

    def path(self, context: Any) -> Any:
        return "repos"


class Issues(HttpSubStream):
    url_base = "https://api.test/"
    primary_key = "id"
    max_tries = 1

    def path(self, context: Any) -> Any:
        return ("repos", context.stream_slice["parent"]["id"], "issues")


def make_source(api: Api, kind: type[HttpSubStream] = Issues, **settings: Any) -> Source:
    transport = httpx.MockTransport(api)
    repos = Repos(transport=transport)
    issues = type(kind.__name__, (kind,), settings)(repos, transport=transport)
    return Source([repos, issues])


def stored_ids(path: Path) -> list[int]:
    with sqlite3.connect(path) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM issues ORDER BY id")]


def ids_of(records: Any) -> list[int]:
    return sorted(record["id"] for record in records)


@pytest.mark.parametrize("status", [403, 404, 410])
@pytest.mark.parametrize("number", [1, 2, 4])
async def test_child_is_left_out_and_named(
    status: int, number: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api = Api()
    api.status[number] = status

    report = await make_source(api).extract(to=JsonLines(tmp_path / "out"))

    [issues] = [stream for stream in report.streams if stream.stream == "issues"]
    assert (issues.records, issues.slices, issues.missing, issues.failed) == (3, 3, 1, 0)
    assert issues.missing_children == {f"{{'parent': {{'id': {number}}}}}": status}
    assert "1 missing" in str(issues)
    manifest = json.loads(next((tmp_path / "out" / ".asyncstreams").rglob("issues/manifest.json")).read_text())
    assert manifest["missing_children"] == issues.missing_children
    assert manifest["complete"]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert f"{{'parent': {{'id': {number}}}}} is left out" in warnings[0]
    assert f"answered {status}" in warnings[0]


async def test_missing_children_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    api = Api(10)
    api.status = dict.fromkeys(range(4, 10), 404)

    found = await make_source(api).read()

    assert ids_of(found["issues"]) == [10, 20, 30, 100]
    assert len([record for record in caplog.records if "left out" in record.getMessage()]) == 1


@pytest.mark.parametrize("status", [403, 404])
async def test_missing_child_fail_fails_the_slice(status: int) -> None:
    api = Api()
    api.status[1] = status

    with pytest.raises(PartialFailure) as caught:
        await make_source(api, missing_child="fail").read()

    [error] = caught.value.errors
    assert isinstance(error, HttpStatusError)
    assert (error.status, str(error.stream_slice)) == (status, "{'parent': {'id': 1}}")
    assert api.requested["repos/4/issues"] == 1


@pytest.mark.parametrize(
    ("count", "refused", "reason"),
    [
        (200, {1, 2, 3}, "its first 3 children are refused"),
        (2, {1, 2}, "all of its 2 children are refused"),
        (1, {1}, "its only child is refused"),
        (10, {2, 3, 4, 6}, "more than 3 of its children are refused"),
    ],
)
async def test_refused_children_make_the_stream_unavailable(count: int, refused: set[int], reason: str) -> None:
    api = Api(count)
    api.status = dict.fromkeys(refused, 403)
    source = make_source(api, max_failed_slices=3)

    async with source.pages() as pages:
        async for _ in pages:
            pass

    assert reason in pages.unavailable["issues"]
    assert "lacks a permission" in pages.unavailable["issues"]
    with pytest.raises(StreamUnavailable, match=reason):
        await source["issues"].read()


async def test_first_refused_children_are_requested_one_by_one() -> None:
    api = Api(200)
    api.status = dict.fromkeys(range(1, 201), 403)

    await make_source(api).read()

    assert len(api.requested) == 1 + 3


async def test_windows_of_a_refused_child_count_as_one_child() -> None:
    api = Api(2)
    api.status[1] = 403
    windows = TimeWindows(start="2024-01-01", step="P1M", end="2025-01-01")

    found = await make_source(api, cursor_field="at", windows=windows).read()

    assert len(found["issues"]) == 1
    assert api.requested["repos/1/issues"] == 12


async def test_all_children_missing_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    api = Api()
    api.status = dict.fromkeys(range(1, 5), 404)

    found = await make_source(api).read()

    assert found["issues"] == []
    assert "no child was found (4 requested)" in caplog.text


@pytest.mark.parametrize("status", [403, 404])
async def test_output_stays_if_half_of_its_children_are_lost(status: int, tmp_path: Path) -> None:
    api, path = Api(6), tmp_path / "out.sqlite"
    api.empty = {5, 6}
    await make_source(api).extract(to=SQLite(path))
    api.status = {2: status, 5: status, 6: status}
    report = await make_source(api).extract(to=SQLite(path))
    assert "issues" not in report.unavailable
    assert stored_ids(path) == [10, 30, 40]  # one of four had rows

    api.status = {1: status, 3: status}
    report = await make_source(api).extract(to=SQLite(path))

    assert "2 of the 3 children that had rows when they were last read" in report.unavailable["issues"]
    assert stored_ids(path) == [10, 30, 40]
    api.status = {}
    await make_source(api).extract(to=SQLite(path))
    assert stored_ids(path) == [10, 20, 30, 40]


async def test_lost_children_of_incremental_substreams_count_too() -> None:
    api, state, clock = Api(4), State(), WallClock()
    source = make_source(api, cursor_field="at", clock=clock)
    await source.read("issues", state=state)
    clock.seconds += 2 * 86_400
    assert (await source.read("issues", state=state))["issues"] == []
    clock.seconds += 2 * 86_400
    api.status = {1: 404, 2: 404}

    with pytest.raises(StreamUnavailable, match="2 of the 4 children that had rows"):
        await source["issues"].read(state=state)


async def test_known_children_survive_an_interrupted_replacement(tmp_path: Path) -> None:
    api, path = Api(4), tmp_path / "out.sqlite"
    await make_source(api).extract(to=SQLite(path))
    api.status = {3: 500, 4: 500}
    with pytest.raises(PartialFailure):
        await make_source(api).extract(to=SQLite(path))
    api.status = {3: 404, 4: 404}

    report = await make_source(api).extract(to=SQLite(path))

    assert "2 of the 4 children" in report.unavailable["issues"]
    assert stored_ids(path) == [10, 20, 30, 40]


async def test_grandchildren_of_an_unavailable_child_are_not_replaced(tmp_path: Path) -> None:
    class Comments(Issues):
        def path(self, context: Any) -> Any:
            return ("repos", context.stream_slice["parent"]["id"] // 10, "comments")

    api, path = Api(4), tmp_path / "out.sqlite"
    source = make_source(api)
    source = Source([*source, Comments(source["issues"], transport=httpx.MockTransport(api))])
    await source.extract(to=SQLite(path))
    api.status = {3: 404, 4: 404}

    report = await source.extract(to=SQLite(path))

    assert report.unavailable.keys() == {"issues", "comments"}
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM comments").fetchone() == (4,)


async def test_status_of_a_later_page_fails_the_slice() -> None:
    class Paged(Issues):
        name = "issues"
        paginator = PageNumber()

        def request_params(self, context: Any) -> Any:
            return None

    def respond(request: httpx.Request) -> httpx.Response:
        is_second = request.url.params.get("page") == "2"
        return httpx.Response(404) if is_second else api(request)

    api = Api(2)
    transport = httpx.MockTransport(respond)

    with pytest.raises(PartialFailure, match="2 of 3 slices failed"):
        await Paged(Repos(transport=transport), transport=transport).read()


async def test_firewall_page_is_no_missing_child() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/repos/2/issues":
            return httpx.Response(403, html="<!doctype html><title>Blocked</title>")
        return api(request)

    api = Api()
    transport = httpx.MockTransport(respond)

    with pytest.raises(PartialFailure):
        await Issues(Repos(transport=transport), transport=transport).read()


async def test_strategy_decides_which_children_are_refused() -> None:
    class Strategy(HttpAvailabilityStrategy):
        def reasons_for_unavailable_status_codes(self, stream: Any, logger: Any, source: Any, error: Any) -> Any:
            return {404: "The plan has no issues."}

    api = Api()
    api.status = dict.fromkeys((1, 2, 3), 404)

    with pytest.raises(StreamUnavailable, match=r"first 3 children are refused: .*The plan has no issues"):
        await make_source(api, availability_strategy=Strategy())["issues"].read()


async def test_batch_with_a_missing_child_is_split() -> None:
    class Batched(Issues):
        name = "issues"
        parent_batch_size = 4

        def path(self, context: Any) -> Any:
            return ("batch", ",".join(str(parent["id"]) for parent in context.stream_slice["parents"]))

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/repos":
            return api(request)
        numbers = list(map(int, request.url.path.rpartition("/")[2].split(",")))
        return httpx.Response(404) if 6 in numbers else httpx.Response(200, json=[{"id": n} for n in numbers])

    api = Api(8)
    transport = httpx.MockTransport(respond)

    found = await Batched(Repos(transport=transport), transport=transport).read()

    assert ids_of(found) == [1, 2, 3, 4, 5, 7, 8]


@pytest.mark.parametrize(("status", "available"), [(403, True), (404, True)])
async def test_check_tries_other_children(status: int, available: bool) -> None:
    api = Api()
    api.status = {1: status, 2: status}

    assert (await make_source(api)["issues"].check_availability())[0] is available


@pytest.mark.parametrize(("status", "available"), [(403, False), (404, True)])
async def test_check_stops_after_three_children(status: int, available: bool) -> None:
    api = Api(100)
    api.status = dict.fromkeys(range(1, 101), status)

    assert (await make_source(api)["issues"].check_availability())[0] is available
    assert len(api.requested) == 1 + 3


async def test_missing_child_is_left_out_below_it_outside_a_run() -> None:
    class Comments(Issues):
        def path(self, context: Any) -> Any:
            return ("repos", context.stream_slice["parent"]["id"] // 10, "comments")

    api = Api()
    api.status[1] = 403
    issues = make_source(api)["issues"]

    slices = [s async for s in Comments(issues, transport=httpx.MockTransport(api)).stream_slices({})]

    assert [stream_slice["parent"]["id"] for stream_slice in slices] == [20, 30, 40]


Change = Callable[[dict[str, Any]], Any]


def without_id(repo: dict[str, Any]) -> None:
    repo["nom"] = repo.pop("id")


def with_value(value: Any) -> Change:
    return lambda repo: repo.update(id=value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (without_id, "a hook found no key 'id'; the record of its parent has the keys name, nom"),
        (with_value(None), "Issues.path() has a segment that is NoneType: must be a str or an int"),
        (with_value(""), "Issues.path() has a segment that is empty: must be a str or an int"),
        (with_value({"x": 1}), "Issues.path() has a segment that is dict: must be a str or an int"),
        (with_value("***"), "Issues: a segment of path() contains '***', the text that is shown in place of a Secret"),
    ],
)
@pytest.mark.parametrize("position", [0, 2])
async def test_parent_without_what_a_path_needs_fails_alone(change: Change, problem: str, position: int) -> None:
    api = Api(4)
    change(api.repos[position])

    found, errors = await read_partially(make_source(api)["issues"])

    assert len(found) == 3
    assert [(type(error), error.message) for error in errors] == [(InvalidSlice, problem)]


async def test_parent_that_gives_no_parameters_fails_alone() -> None:
    class Filtered(Issues):
        def request_params(self, context: Any) -> Any:
            return context.stream_slice["parent"]["filter"]

    api = Api(4, filter={"state": "open"})
    api.repos[1]["filter"] = 5

    found, errors = await read_partially(make_source(api, Filtered)["filtered"])

    assert ids_of(found) == [10, 30, 40]
    assert [type(error) for error in errors] == [InvalidSlice]


@pytest.mark.parametrize("change", [without_id, with_value(None)])
async def test_first_parents_without_a_key_do_not_end_the_stream(change: Change) -> None:
    api = Api(8)
    for repo in api.repos[:5]:
        change(repo)

    found, errors = await read_partially(make_source(api)["issues"])

    assert ids_of(found) == [60, 70, 80]
    assert [type(error) for error in errors] == [InvalidSlice] * 5


async def read_partially(stream: HttpStream) -> tuple[list[Any], list[Any]]:
    """The records of a stream some of whose slices fail, and their errors."""
    pages, failure = await collect_pages(stream.pages(), PartialFailure)
    return [record for page in pages for record in page.records], list(failure.errors)


async def test_interval_that_a_parent_makes_invalid_fails_alone() -> None:
    class Since(Issues):
        cursor_field = "at"

        async def stream_slices(self, state: Any) -> Any:
            async for stream_slice in super().stream_slices(state):
                yield Slice(stream_slice.partition, (stream_slice["parent"]["since"], "2030-01-01"))

    api = Api(4, since="2020-01-01")
    api.repos[1]["since"] = "soon"

    found, errors = await read_partially(make_source(api, Since)["since"])

    assert ids_of(found) == [10, 30, 40]
    assert [type(error) for error in errors] == [InvalidSlice]


async def test_only_child_of_a_bad_parent_raises_no_config_error() -> None:
    api = Api(1)
    api.repos[0]["id"] = None

    with pytest.raises((InvalidSlice, PartialFailure)):
        await make_source(api)["issues"].read()


@pytest.mark.parametrize(
    ("hook", "value"),
    [
        ("request_headers", lambda self, context: {"X-Owner": context.stream_slice["parent"]["owner"]}),
        ("request_params", lambda self, context: {"owner": context.stream_slice["parent"]["owner"]}),
        ("request_json", lambda self, context: {"owner": context.stream_slice["parent"]["owner"]["name"]}),
        ("request_data", lambda self, context: {"owner": context.stream_slice["parent"]["owner"]["name"]}),
    ],
)
async def test_value_that_no_request_can_hold_fails_alone(hook: str, value: Any) -> None:
    api = Api(4, owner={"name": "ann"})
    for repo in api.repos[1:]:
        repo["owner"] = "ann" if hook in ("request_headers", "request_params") else {"name": "ann"}
    bad: Any = {"request_headers": "ann\nX-Other: 1", "request_params": {"name": "ann"}}.get(hook)
    api.repos[0]["owner"] = bad
    settings = {hook: value, **({"http_method": "POST"} if hook in ("request_json", "request_data") else {})}

    with pytest.raises(PartialFailure) as caught:
        await make_source(api, **settings)["issues"].read()

    [error] = caught.value.errors
    assert isinstance(error, InvalidSlice)
    assert "X-Other" not in str(error)
    assert api.requested["repos/4/issues"] == 1


async def test_slice_of_the_author_fails_alone() -> None:
    class Projects(Repos):
        def stream_slices(self, state: Any) -> Any:
            return [{"project": 1}, {"project": None}, {"project": 3}]

        def path(self, context: Any) -> Any:
            return ("projects", context.stream_slice["project"], "issues")

    with pytest.raises(PartialFailure, match="1 of 3 slices failed"):
        await Projects(transport=httpx.MockTransport(Api())).read()


async def test_response_that_the_parser_does_not_expect_fails_alone() -> None:
    api = Api()

    def parse(self: Any, response: Any, context: Any) -> Any:
        records = response.json()
        return None if records[0]["id"] == 10 else records

    with pytest.raises(PartialFailure) as caught:
        await make_source(api, parse_response=parse, single_page=True)["issues"].read()

    [error] = caught.value.errors
    assert type(error) is UnexpectedContent
    assert "parse_response returned NoneType" in error.message
    assert api.requested["repos/4/issues"] == 1


async def test_broken_hook_of_a_substream_stops_after_three_children() -> None:
    api = Api(200)

    def parse(self: Any, response: Any, context: Any) -> Any:
        raise NameError("recrods")

    with pytest.raises(PartialFailure):
        await make_source(api, parse_response=parse, max_concurrency=1)["issues"].read()

    assert len(api.requested) == 1 + 3
