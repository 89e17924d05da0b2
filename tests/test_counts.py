"""Does paging go on where parse_response leaves records out, and does nothing break on odd records?"""

from __future__ import annotations

import httpx
import pytest

from asyncstreams import HttpStream, Offset, PageNumber, UnexpectedContent

ALL = [{"id": number} for number in range(10)]


def by_offset(request: httpx.Request) -> httpx.Response:
    offset, limit = int(request.url.params["offset"]), int(request.url.params["limit"])
    return httpx.Response(200, json={"items": ALL[offset : offset + limit], "warnings": []})


def by_page(request: httpx.Request) -> httpx.Response:
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


async def test_an_offset_moves_by_what_the_api_sent_and_not_by_what_is_kept():
    records = await FilteredByOffset(transport=httpx.MockTransport(by_offset)).read()

    assert [record["id"] for record in records] == [0, 1, 8, 9]


async def test_a_page_of_which_nothing_is_kept_is_not_the_last():
    records = await FilteredByPage(transport=httpx.MockTransport(by_page)).read()

    assert [record["id"] for record in records] == [0, 1, 8, 9]


@pytest.mark.parametrize("value", [2**70, [[[0]]], -(2**65)])
async def test_a_record_with_a_large_integer_is_read_as_it_is(value):
    class One(HttpStream):
        url_base = "https://api.example.com/"

        def path(self, context):
            return "one"

    transport = httpx.MockTransport(lambda request: httpx.Response(200, text=f'[{{"id": {value}}}]'))

    assert await One(transport=transport).read() == [{"id": value}]


async def test_an_array_of_something_else_than_objects_is_the_apis_fault():
    class Numbers(HttpStream):
        url_base = "https://api.example.com/"

        def path(self, context):
            return "numbers"

    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=[{"id": 1}, 2]))

    with pytest.raises(UnexpectedContent, match="item 1 is of type integer"):
        await Numbers(transport=transport).read()


async def test_slices_may_come_from_a_coroutine():
    class Sliced(HttpStream):
        url_base = "https://api.example.com/"

        async def stream_slices(self, state):
            return [{"part": "a"}, {"part": "b"}]

        def path(self, context):
            return context.stream_slice["part"]

    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=[{"at": request.url.path}]))

    assert await Sliced(transport=transport).read() == [{"at": "/a"}, {"at": "/b"}]
