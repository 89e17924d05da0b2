"""MockApi: records, paging, children, errors and declarations."""

from __future__ import annotations

import random
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from asyncstreams import ConfigError, Header, HttpStream, RequestContext
from asyncstreams.testing import MockApi, Resource

STYLES = ["page", "offset", "cursor", "link", "next_url", "continue", "none"]


def stream_for(api: MockApi, name: str) -> HttpStream:
    """The stream that `stream_source` declares."""
    namespace: dict[str, Any] = {}
    exec(api.stream_source(name), namespace)
    stream: HttpStream = namespace[name]
    return stream


def get(api: MockApi, path: str, **params: Any) -> httpx.Response:
    return httpx.get(api.url + path, params=params)


@pytest.mark.parametrize("total", [False, True])
@pytest.mark.parametrize("count", [0, 1, 100, 250])
@pytest.mark.parametrize("paging", STYLES)
async def test_every_paging_returns_all_records_in_order(paging: Any, count: int, total: bool) -> None:
    async with MockApi(Resource("users", count, paging=paging, total=total)) as api:
        records = await stream_for(api, "users").read()

    assert records == list(api.records("users"))
    assert [record["id"] for record in records] == api.ids("users") == list(range(1, count + 1))


@pytest.mark.parametrize("paging", ["page", "offset", "cursor", "link", "none"])
async def test_bare_array_pages_by_headers(paging: Any) -> None:
    async with MockApi(Resource("users", 250, paging=paging, records_at=None, total=True)) as api:
        records = await stream_for(api, "users").read()

    assert [record["id"] for record in records] == api.ids("users")


@pytest.mark.parametrize("format_", ["ndjson", "csv"])
@pytest.mark.parametrize("count", [0, 3, 5_001])
async def test_export_contains_all_records(format_: Any, count: int) -> None:
    async with MockApi(Resource("events", count, format=format_)) as api:
        records = await stream_for(api, "events").read()

    assert [int(record["id"]) for record in records] == api.ids("events")
    assert api.counts.records == count


@pytest.mark.parametrize("format_", ["ndjson", "csv"])
async def test_ndjson_and_csv_can_be_paged(format_: Any) -> None:
    resource = Resource("events", 250, format=format_, paging="cursor")

    async with MockApi(resource) as api:
        records = await stream_for(api, "events").read()

    assert [int(record["id"]) for record in records] == api.ids("events")
    assert api.counts.requests == 3


async def test_long_json_array_is_streamed_completely() -> None:
    async with MockApi(Resource("users", 4_321, paging="none", total=True), gzip=True) as api:
        records = await stream_for(api, "users").read()

    assert records == list(api.records("users"))


async def test_declared_parameter_names_and_paths_are_used() -> None:
    resource = Resource(
        "users",
        25,
        path="/v2/people",
        page_size=10,
        records_at="result.items",
        total="result.count",
        page_param="p",
        first_page=0,
        size_param="n",
    )

    async with MockApi(resource) as api:
        records = await stream_for(api, "users").read()

    assert api.path("users") == "v2/people"
    assert len(records) == 25
    assert api.counts.requests == 3


async def test_cursor_and_total_in_headers() -> None:
    resource = Resource("users", 25, page_size=10, paging="cursor", next_at=Header("X-Next"), total=Header("X-All"))

    async with MockApi(resource) as api:
        records = await stream_for(api, "users").read()

    assert len(records) == 25


def test_page_body_and_links(mock_api: MockApi) -> None:
    mock_api.add(Resource("users", 25, page_size=10, total=True))
    mock_api.add(Resource("bare", 25, page_size=10, total=True, records_at=None, paging="link"))

    page = get(mock_api, "users", page=3)
    bare = get(mock_api, "bare", page=2)

    assert page.json()["meta"] == {"total": 25, "pages": 3}
    assert [record["id"] for record in page.json()["data"]] == [21, 22, 23, 24, 25]
    assert bare.headers["X-Total-Count"] == "25"
    assert bare.links["next"]["url"] == f"{mock_api.url}bare?page=3"
    assert {rel: link["url"][-1] for rel, link in bare.links.items()} == {
        "first": "1",
        "prev": "1",
        "next": "3",
        "last": "3",
    }


def test_page_size_is_capped(mock_api: MockApi) -> None:
    mock_api.add(Resource("users", 500, max_page_size=200))

    assert len(get(mock_api, "users", per_page=50).json()["data"]) == 50
    assert len(get(mock_api, "users", per_page=10_000).json()["data"]) == 200


def test_next_link_repeats_page_size_and_since(mock_api: MockApi) -> None:
    mock_api.add(Resource("users", 500, paging="next_url"))

    first = get(mock_api, "users", limit=7, since="2026-01-01T01:00:00Z")
    second = httpx.get(first.json()["next"])

    assert [record["id"] for record in second.json()["data"]] == list(range(68, 75))


def test_equal_seeds_give_equal_bytes() -> None:
    def body(seed: int) -> bytes:
        with MockApi(Resource("users", 300, paging="cursor"), seed=seed) as api:
            return get(api, "users", limit=300).content

    assert body(1) == body(1)
    assert body(1) != body(2)


def test_single_record_equals_record_on_page(mock_api: MockApi) -> None:
    mock_api.add(Resource("users", 300))

    single, page = get(mock_api, "users/150"), get(mock_api, "users", page=2)

    assert single.json() == page.json()["data"][49] == list(mock_api.records("users"))[149]


def test_default_record_has_all_json_types(mock_api: MockApi) -> None:
    mock_api.add(Resource("users", 1_000))

    records = list(mock_api.records("users"))

    assert {type(value) for record in records for value in record.values()} == {
        int,
        str,
        bool,
        float,
        list,
        dict,
        type(None),
    }
    assert len(records[0]) == 12
    assert [record["updated_at"] for record in records] == sorted({record["updated_at"] for record in records})
    assert 20_000 < len(get(mock_api, "users").content) < 26_000


def numbered_record(n: int, random: random.Random) -> dict[str, Any]:
    return {"key": f"user/{n}", "level": n // 10, "luck": random.randrange(1_000)}


def test_custom_records_are_deterministic_and_sliceable(mock_api: MockApi) -> None:
    mock_api.add(Resource("users", 25, record=numbered_record, id_field="key", cursor_field="level"))

    assert mock_api.ids("users")[:2] == ["user/1", "user/2"]
    assert list(mock_api.records("users")) == list(mock_api.records("users"))
    assert len({record["luck"] for record in mock_api.records("users")}) > 10
    assert [record["key"] for record in get(mock_api, "users", since="2").json()["data"]] == [
        f"user/{n}" for n in range(20, 26)
    ]


def failing_record(n: int, random: random.Random) -> dict[str, Any]:
    raise KeyError("price")


def test_exception_in_record_function_is_in_the_response(mock_api: MockApi) -> None:
    mock_api.add(Resource("users", 25, record=failing_record))

    response = get(mock_api, "users")

    assert response.status_code == 500
    assert "record= or when= raised KeyError: 'price'" in response.json()["error"]["message"]
    assert get(mock_api, "").status_code == 200


@pytest.mark.parametrize(
    ("since", "until", "ids"),
    [
        (None, None, [1, 2, 3, 4, 5]),
        ("2026-01-02T00:00:00Z", "2026-01-04T00:00:00Z", [2, 3]),
        ("2026-01-02", "2026-01-04", [2, 3]),
        ("2026-01-02T00:00:00.001Z", None, [3, 4, 5]),
        (None, "2026-01-02T02:00:00+02:00", [1]),
        ("2027-01-01", None, []),
        ("2026-01-04", "2026-01-02", []),
    ],
)
def test_since_is_inclusive_and_until_exclusive(
    mock_api: MockApi, since: str | None, until: str | None, ids: list[int]
) -> None:
    mock_api.add(Resource("events", 5, every=86_400))

    params = {name: value for name, value in (("since", since), ("until", until)) if value}
    page = get(mock_api, "events", **params)

    assert [record["id"] for record in page.json()["data"]] == ids


def test_children_have_paths_below_their_parents(mock_api: MockApi) -> None:
    mock_api.add(Resource("customers", 3))
    mock_api.add(Resource("orders", 4, parent="customers"))
    mock_api.add(Resource("lines", 2, parent="orders"))

    orders = get(mock_api, "customers/2/orders").json()["data"]
    lines = get(mock_api, "customers/2/orders/7/lines").json()["data"]

    assert [(order["id"], order["customer_id"]) for order in orders] == [(5, 2), (6, 2), (7, 2), (8, 2)]
    assert [(line["id"], line["order_id"]) for line in lines] == [(13, 7), (14, 7)]
    assert mock_api.ids("orders") == list(range(1, 13))
    assert mock_api.ids("lines", 2, 7) == [13, 14]
    assert get(mock_api, "customers/1/orders/7/lines").status_code == 404
    assert get(mock_api, "customers/4/orders").status_code == 404


async def test_number_of_children_varies_within_range() -> None:
    class Orders(HttpStream):
        records_path = "data"

        def path(self, context: RequestContext) -> tuple[str, ...]:
            return ("customers", str(context.stream_slice["customer"]), "orders")

        def stream_slices(self, state: Any) -> Any:
            return [{"customer": number} for number in range(1, 41)]

    async with MockApi(Resource("customers", 40), Resource("orders", (0, 3), parent="customers")) as api:
        orders = Orders()
        orders.url_base = api.url
        records = await orders.read()

    assert sorted(record["id"] for record in records) == api.ids("orders")
    assert {len(api.ids("orders", number)) for number in range(1, 41)} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("path", "params", "status", "message"),
    [
        ("userz", {}, 404, "/users"),
        ("users/501", {}, 404, "has no record '501'"),
        ("users/x", {}, 404, "has no record 'x'"),
        ("users", {"page": "0"}, 400, "page=0: the value must be a whole number from 1"),
        ("users", {"page": "two"}, 400, "page=two"),
        ("users", {"per_page": "0"}, 400, "per_page=0"),
        ("users", {"since": "yesterday"}, 400, "since or until"),
        ("items", {"cursor": "abc"}, 400, "not a cursor of this resource"),
        ("secret", {}, 403, "may not read secret"),
    ],
)
def test_invalid_request_gets_json_error(
    mock_api: MockApi, path: str, params: dict[str, str], status: int, message: str
) -> None:
    mock_api.add(Resource("users", 500))
    mock_api.add(Resource("items", 500, paging="cursor"))
    mock_api.add(Resource("secret", forbidden=True))

    response = get(mock_api, path, **params)

    assert response.status_code == response.json()["error"]["status"] == status
    assert message in response.text


def test_root_describes_the_api(mock_api: MockApi) -> None:
    mock_api.add(Resource("users", 500, total=True))

    (users,) = get(mock_api, "").json()["resources"]

    assert users["path"] == "/users"
    assert users["paging"] == "page"
    assert users["total_at"] == "meta.total"
    assert set(users["parameters"]) == {"page", "per_page", "since", "until"}


def test_post_body_contains_the_parameters(mock_api: MockApi) -> None:
    mock_api.add(Resource("users", 500))

    as_json = httpx.post(mock_api.url + "users", json={"page": 2, "per_page": 3})
    as_form = httpx.post(mock_api.url + "users", data={"page": 2, "per_page": 3})

    assert [record["id"] for record in as_json.json()["data"]] == [4, 5, 6]
    assert as_form.content == as_json.content
    assert httpx.delete(mock_api.url + "users").status_code == 405


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: Resource("a/b"), "must be one path segment"),
        (lambda: Resource("_mock"), "must not start with _"),
        (lambda: Resource("a", -1), "0 or more"),
        (lambda: Resource("a", (1, 3)), "only a resource with a parent"),
        (lambda: Resource("a", page_size=0), "page_size must be at least 1"),
        (lambda: Resource("a", paging="pages"), "paging must be one of 'page', 'offset'"),  # type: ignore[arg-type]
        (lambda: Resource("a", paging="next_url", records_at=None), "the body has no field for the next page"),
        (lambda: Resource("a", latency=(2, 1)), "latency must be seconds"),
        (lambda: MockApi(Resource("a"), Resource("a")), "another resource has the same name"),
        (lambda: MockApi(Resource("a", parent="b")), "no resource of this name is declared before it"),
        (lambda: MockApi(Resource("a"), Resource("b", parent="a", path="b")), "must contain {id} 1 times"),
        (lambda: MockApi(latency=-1), "latency must be seconds"),
        (lambda: MockApi(uvloop=True), "uvloop requires process=True"),
        (lambda: MockApi(Resource("a")).ids("b"), "no resource 'b'"),
        (lambda: MockApi().url, "not running"),
    ],
)
def test_invalid_declaration_is_rejected_with_reason(declare: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        declare()


@pytest.mark.parametrize("id_", ["a/b", "x y", "100%2F", "a?b#c", "\u0142\u00f3d\u017a", "a\r\nSet-Cookie: x=1"])
def test_children_and_links_work_with_any_parent_id(mock_api: MockApi, id_: str) -> None:
    mock_api.add(Resource("projects", 1, record=lambda n, random: {"id": id_}))
    mock_api.add(Resource("tickets", 25, parent="projects", paging="link", page_size=10))
    url = f"{mock_api.url}projects/{quote(id_, safe='')}"

    project, page = httpx.get(url), httpx.get(f"{url}/tickets")
    pages = [page]
    while "next" in page.links:
        page = httpx.get(page.links["next"]["url"])
        pages.append(page)

    assert project.json() == {"id": id_}
    assert [record["id"] for page in pages for record in page.json()["data"]] == mock_api.ids("tickets", id_)
    assert pages[0].links["next"]["url"] == f"{url}/tickets?page=2"
    assert "Set-Cookie" not in pages[0].headers


def test_control_character_in_header_is_rejected(mock_api: MockApi) -> None:
    mock_api.add(Resource("users", 250, paging="cursor", next_at=Header("X-Next: x\r\nSet-Cookie")))

    response = get(mock_api, "users")

    assert "Set-Cookie" not in response.headers
    assert (response.status_code, "control character in the header" in response.text) == (500, True)


def test_id_with_thousands_of_digits_is_not_found(mock_api: MockApi) -> None:
    mock_api.add(Resource("users", 5))

    assert get(mock_api, f"users/{'9' * 5_000}").status_code == 404
