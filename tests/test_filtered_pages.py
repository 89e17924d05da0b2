"""Paging when parse_response drops records, and unusual records and slices."""

from __future__ import annotations

import httpx
import pytest

from asyncstreams import HttpStream, Offset, PageNumber, UnexpectedContent

ALL = [{"id": number} for number in range(10)]


def respond_by_offset(request: httpx.Request) -> httpx.Response:
    offset, limit = int(request.url.params["offset"]), int(request.url.params["limit"])
    return httpx.Response(200, json={"items": ALL[offset : offset + limit], "warnings": []})


def respond_by_page(request: httpx.Request) -> httpx.Response:
    page = int(request.url.params["page"])
    return httpx.Response(200, json={"items": ALL[page * 2 - 2 : page * 2], "warnings": []})


class Filtered(HttpStream):
    url_base = "https://api.example.com/"

    def path(self, context):
        return "things"

    def parse_response(self, response, context):
        return [item for item in response.json()["items"] if item["id"] in (0, 1, 8, 9)]


class FilteredByOffset(Filtered):
    paginator = Offset(limit=4)


class FilteredByPage(Filtered):
    paginator = PageNumber()


async def test_offset_advances_by_records_sent_not_by_records_kept():
    records = await FilteredByOffset(transport=httpx.MockTransport(respond_by_offset)).read()

    assert [record["id"] for record in records] == [0, 1, 8, 9]


async def test_page_with_no_kept_records_is_not_the_last():
    records = await FilteredByPage(transport=httpx.MockTransport(respond_by_page)).read()

    assert [record["id"] for record in records] == [0, 1, 8, 9]


@pytest.mark.parametrize("value", [2**70, [[[0]]], -(2**65)])
async def test_large_integer_in_record_is_read_exactly(value):
    class SingleRecord(HttpStream):
        url_base = "https://api.example.com/"

        def path(self, context):
            return "one"

    transport = httpx.MockTransport(lambda request: httpx.Response(200, text=f'[{{"id": {value}}}]'))

    assert await SingleRecord(transport=transport).read() == [{"id": value}]


async def test_array_item_that_is_no_object_raises():
    class Numbers(HttpStream):
        url_base = "https://api.example.com/"

        def path(self, context):
            return "numbers"

    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=[{"id": 1}, 2]))

    with pytest.raises(UnexpectedContent, match="item 1 is a JSON integer"):
        await Numbers(transport=transport).read()


async def test_stream_slices_may_be_a_coroutine():
    class Sliced(HttpStream):
        url_base = "https://api.example.com/"

        async def stream_slices(self, state):
            return [{"part": "a"}, {"part": "b"}]

        def path(self, context):
            return context.stream_slice["part"]

    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=[{"at": request.url.path}]))

    assert await Sliced(transport=transport).read() == [{"at": "/a"}, {"at": "/b"}]
