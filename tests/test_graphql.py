"""GraphQL errors in responses with status 200."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx
import pytest

from asyncstreams import ConfigError, HttpStatusError, HttpStream, JsonLines, RateLimitWaitTooLong, json_items

WRONG_FIELD = {"message": "Field 'totl' doesn't exist"}
NODES = {"orders": {"nodes": [{"id": 1}]}}


class Orders(HttpStream):
    url_base = "https://api.test/"
    http_method = "POST"
    records_path = "data.orders.nodes"
    single_page = True

    def path(self, context):
        return "graphql"

    def request_json(self, context):
        return {"query": "{ orders { nodes { id } } }"}


class Form(Orders):
    def request_json(self, context):
        return None

    def request_data(self, context):
        return {"query": "{ orders { nodes { id } } }"}


class Persisted(Orders):
    def request_json(self, context):
        return {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": "0a1b"}}}


class QueryText(Orders):
    def request_json(self, context):
        return None

    def request_data(self, context):
        return "{ orders { nodes { id } } }"

    def request_headers(self, context):
        return {"Content-Type": "application/graphql"}


class Streamed(Orders):
    async def parse_response(self, response, context):
        async for record in json_items(response, "data.orders.nodes"):
            yield record


class Search(Orders):
    """The body of a search: its query is no string."""

    def request_json(self, context):
        return {"query": {"match_all": {}}, "_source": ["query"]}


class Reader(Orders):
    http_method = "GET"


def api(*bodies: Any) -> httpx.MockTransport:
    left = list(bodies)
    return httpx.MockTransport(lambda request: httpx.Response(200, json=left.pop(0) if len(left) > 1 else left[0]))


@pytest.mark.parametrize("kind", [Orders, Form, Persisted, QueryText, Streamed])
@pytest.mark.parametrize(
    "body",
    [
        {"data": None, "errors": [WRONG_FIELD]},
        {"errors": [WRONG_FIELD], "extensions": {"cost": 1}},
        {"data": {"orders": None}, "errors": [WRONG_FIELD]},
        {"data": NODES, "errors": [WRONG_FIELD]},
    ],
)
async def test_error_beside_status_200_is_raised(kind, body):
    with pytest.raises(HttpStatusError, match="Field 'totl' doesn't exist") as caught:
        await kind(transport=api(body)).read()

    assert caught.value.status == 200
    assert "records_path" not in str(caught.value)


@pytest.mark.parametrize("errors", [[], None, ["text"], [{"code": 1}], {"message": "no array"}, [{"message": 1}]])
async def test_other_values_named_errors_are_no_graphql_errors(errors):
    records = await Orders(transport=api({"data": NODES, "errors": errors})).read()

    assert records == [{"id": 1}]


@pytest.mark.parametrize("kind", [Search, Reader])
async def test_requests_without_a_string_query_are_no_graphql(kind):
    records = await kind(transport=api({"data": NODES, "errors": [WRONG_FIELD]})).read()

    assert records == [{"id": 1}]


async def test_partial_data_is_read_with_one_warning(caplog):
    stream = Orders(transport=api({"data": {**NODES, "tags": None}, "errors": [WRONG_FIELD]}))
    stream.graphql_partial = "warn"

    records = await stream.read(slices=[{"shop": 1}, {"shop": 2}])

    assert records == [{"id": 1}, {"id": 1}]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "Field 'totl' doesn't exist" in warnings[0]


async def test_partial_data_of_a_streamed_body_is_read_with_a_warning(caplog):
    stream = Streamed(transport=api({"data": NODES, "errors": [WRONG_FIELD]}))
    stream.graphql_partial = "warn"

    assert await stream.read() == [{"id": 1}]
    assert "a part of the data is missing" in caplog.text


@pytest.mark.parametrize("body", [{"errors": [WRONG_FIELD]}, {"data": {"orders": None}, "errors": [WRONG_FIELD]}])
async def test_errors_without_data_fail_also_with_warn(body):
    stream = Orders(transport=api(body))
    stream.graphql_partial = "warn"

    with pytest.raises(HttpStatusError, match="errors of GraphQL"):
        await stream.read()


@pytest.mark.parametrize(
    "error",
    [
        {"message": "wait", "extensions": {"code": "THROTTLED"}},
        {"message": "wait", "type": "RATE_LIMITED"},
        {"message": "API rate limit exceeded for user ID 1."},
    ],
)
async def test_throttled_query_is_repeated_after_a_wait(virtual_clock, error):
    stream = Orders(transport=api({"data": None, "errors": [error]}, {"data": NODES}), clock=virtual_clock)

    records = await stream.read()

    assert records == [{"id": 1}]
    assert virtual_clock.monotonic() > 0


async def test_query_that_stays_throttled_names_the_reason(virtual_clock):
    error = {"message": "Throttled", "extensions": {"code": "THROTTLED"}}
    stream = Orders(transport=api({"data": None, "errors": [error]}), clock=virtual_clock)
    stream.max_server_wait = 2

    with pytest.raises(RateLimitWaitTooLong, match="Throttled"):
        await stream.read()


async def test_graphql_error_fails_an_extraction(tmp_path):
    stream = Orders(transport=api({"data": NODES, "errors": [WRONG_FIELD]}))

    with pytest.raises(HttpStatusError, match="totl"):
        await stream.extract(to=JsonLines(tmp_path))


async def test_secret_in_a_graphql_error_is_hidden():
    class Signed(Orders):
        def request_headers(self, context):
            return {"X-Api-Key": "hunter2hunter2"}

    error = {"message": "\x1b[1mkey hunter2hunter2 is unknown"}

    with pytest.raises(HttpStatusError) as caught:
        await Signed(transport=api({"errors": [error]})).read()

    assert r"\x1b[1mkey *** is unknown" in str(caught.value)


async def test_unknown_choice_is_refused():
    stream = Orders(transport=api({"data": NODES}))
    stream.graphql_partial = "ignore"  # type: ignore[assignment]

    with pytest.raises(ConfigError, match="graphql_partial = 'ignore': expected 'fail' or 'warn'"):
        await stream.read()


async def test_body_of_the_request_may_be_text():
    class Text(Orders):
        def request_json(self, context):
            return None

        def request_data(self, context):
            return json.dumps({"query": "{ orders { nodes { id } } }"})

    with pytest.raises(HttpStatusError, match="totl"):
        await Text(transport=api({"errors": [WRONG_FIELD]})).read()
