"""The table of settings, and the streams that runs read with it."""

from __future__ import annotations

import asyncio
import gc
from copy import copy
from dataclasses import dataclass
from typing import get_type_hints
from weakref import ref

import httpx
import pytest

from asyncstreams import (
    BodyLimits,
    ConfigError,
    HttpStream,
    HttpSubStream,
    ResponseTooLarge,
    Source,
    StreamOptions,
    Timeouts,
    TokenAuthenticator,
)
from asyncstreams.declaration.settings import SETTINGS
from asyncstreams.streams.http_stream import bind


class Items(HttpStream):
    url_base = "https://api.test/"

    def path(self, context):
        return self.name


class SlottedItems(Items):
    __slots__ = ("shop",)

    def path(self, context):
        return self.shop


class RecordingApi(httpx.AsyncBaseTransport):
    """Answers each request with one record, and records path and credential."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str | None]] = []

    async def handle_async_request(self, request):
        self.calls.append((request.url.path, request.headers.get("Authorization")))
        await asyncio.sleep(0)
        return httpx.Response(200, json=[{"id": 1}])


def test_options_of_a_source_are_rows_of_the_table():
    shared = {name for name, row in SETTINGS.items() if row.is_shared}

    assert shared == set(get_type_hints(StreamOptions))
    assert all(getattr(HttpStream, name) is row.default for name, row in SETTINGS.items())


@pytest.mark.parametrize("name", [name for name, row in SETTINGS.items() if row.check is not None])
async def test_each_check_refuses_an_object(name):
    stream = type("Wrong", (Items,), {})()
    setattr(stream, name, object())

    with pytest.raises(ConfigError, match=rf"rong(\.|: ){name}"):
        await stream.read()


async def test_property_is_evaluated_once_in_a_run():
    evaluated = []

    class CountingItems(Items):
        @property
        def timeouts(self):
            evaluated.append(1)
            return Timeouts()

    await CountingItems(transport=RecordingApi()).read(slices=[{"n": number} for number in range(20)])

    assert len(evaluated) == 1


async def test_hook_sees_the_options_of_its_source():
    seen = []

    class LookingItems(Items):
        def request_params(self, context):
            seen.append((self.timeouts, self.max_tries))
            self.calls = getattr(self, "calls", 0) + 1
            return {}

    stream = LookingItems(transport=RecordingApi())
    await Source([stream], timeouts=Timeouts(connect=3)).read()

    assert seen == [(Timeouts(connect=3), 5)]
    assert (stream.calls, stream.timeouts) == (1, Timeouts())


async def test_request_of_a_hook_has_the_credential_of_its_source():
    class DetailedItems(Items):
        async def parse_response(self, response, context):
            return [(await self.request("detail")).json()[0]]

    api = RecordingApi()
    stream = DetailedItems(transport=api)

    await asyncio.gather(
        *(Source([stream], authenticator=TokenAuthenticator(token)).read() for token in ("first", "second"))
    )

    details = sorted(credential for path, credential in api.calls if path == "/detail")
    assert details == ["Bearer first", "Bearer second"]


async def test_parents_are_read_by_the_source_of_the_child():
    class Children(HttpSubStream, Items):
        def path(self, context):
            return f"{context.stream_slice['parent']['id']}/children"

    api = RecordingApi()
    child = Children(Items(transport=api), transport=api)

    await asyncio.gather(
        *(Source([child], authenticator=TokenAuthenticator(token)).read() for token in ("first", "second"))
    )

    assert sorted(api.calls) == [
        ("/1/children", "Bearer first"),
        ("/1/children", "Bearer second"),
        ("/items", "Bearer first"),
        ("/items", "Bearer second"),
    ]


async def test_hook_may_read_another_stream_of_its_source():
    class Reports(Items):
        def __init__(self, items, **options):
            self.items = items
            super().__init__(**options)

        async def stream_slices(self, state):
            return [{"item": record["id"]} for record in await self.items.read()]

    api = RecordingApi()
    items = Items(transport=api)

    await Source([items, Reports(items, transport=api)], authenticator=TokenAuthenticator("t")).read("reports")

    assert api.calls == [("/items", "Bearer t"), ("/reports", "Bearer t")]


async def test_option_changed_between_two_reads_applies():
    api = RecordingApi()
    stream = Items(transport=api)

    async with Source([stream]) as source:
        await source.read()
        stream.authenticator = TokenAuthenticator("later")
        await source.read()

    assert [credential for _, credential in api.calls] == [None, "Bearer later"]


async def test_stream_may_be_a_dataclass():
    @dataclass
    class Orders(Items):
        shop: str

        def __post_init__(self):
            super().__init__(transport=api)

        def request_params(self, context):
            return {"shop": self.shop}

    api = RecordingApi()

    assert await Source([Orders("north")]).read() == {"orders": [{"id": 1}]}


async def test_attributes_in_slots_are_seen_by_hooks():
    api = RecordingApi()
    stream = SlottedItems(transport=api)
    stream.shop = "north"

    await stream.read()

    assert api.calls == [("/north", None)]


async def test_private_slots_are_seen_by_hooks():
    class Orders(Items):
        __slots__ = "__shop"  # a single name, which Python mangles

        def __init__(self, shop):
            super().__init__(transport=api)
            self.__shop = shop

        def path(self, context):
            return self.__shop

    api = RecordingApi()

    await Orders("north").read()

    assert api.calls == [("/north", None)]


async def test_slot_changed_between_two_reads_applies():
    api = RecordingApi()
    stream = SlottedItems(transport=api)
    async with Source([stream]) as source:
        for stream.shop in ("north", "south"):
            await source.read()

    assert [path for path, _ in api.calls] == ["/north", "/south"]


async def test_copy_of_a_stream_is_another_stream():
    class Orders(Items):
        shop = "north"

        def path(self, context):
            return self.shop

    api = RecordingApi()
    north = Orders(transport=api)
    south = copy(north)
    south.shop = "south"
    async with Source([north]):
        await north.read()
        await south.read()
    south.name = "south"

    found = await Source([north, south]).read()

    assert [path for path, _ in api.calls] == ["/north", "/south", "/north", "/south"]
    assert found == {"orders": [{"id": 1}], "south": [{"id": 1}]}


async def test_hook_may_read_a_copy_of_its_stream():
    class Orders(Items):
        shop = ""

        def path(self, context):
            return f"orders{self.shop}"

        async def stream_slices(self, state):
            if not self.shop:
                part = copy(self)
                part.shop = "/north"
                await part.read()
            yield {}

    api = RecordingApi()

    await Source([Orders()], transport=api).read()

    assert [path for path, _ in api.calls] == ["/orders/north", "/orders"]


async def test_reads_of_a_session_share_what_they_learned():
    class Orders(Items):
        def availability_strategy(self):
            return None

    stream = Orders(transport=RecordingApi())
    bound = []
    async with Source([stream]):
        for _ in range(3):
            view = bind([stream], None)[0]
            async with view.lease() as client:
                bound.append(client)

    assert len({id(client) for client in bound}) == 1


async def test_other_value_of_a_property_applies_to_the_next_read():
    class Orders(Items):
        limits = BodyLimits()

        @property
        def body_limits(self):
            return self.limits

    stream = Orders(transport=RecordingApi())
    async with Source([stream]) as source:
        await source.read()
        stream.limits = BodyLimits(decoded=1)
        with pytest.raises(ResponseTooLarge):
            await source.read()


async def test_parent_records_are_released_after_the_read():
    class Children(HttpSubStream, Items):
        def stream_slices(self, state):
            feeds.append(ref(self.binding.feed))
            return super().stream_slices(state)

    feeds = []
    async with Source([Children(Items())], transport=RecordingApi()) as source:
        await source.read()
        gc.collect()
        assert [feed() for feed in feeds] == [None]


@pytest.mark.parametrize("read", [lambda source: source.read(), lambda source: source["children"].read()])
async def test_parent_without_its_init_is_named(read):
    class Orders(Items):
        def __init__(self):
            pass

    class Children(HttpSubStream, Items):
        pass

    with pytest.raises(ConfigError, match=r"Orders\.__init__ does not call super"):
        await read(Source([Children(Orders())], transport=RecordingApi()))


async def test_stream_without_its_init_is_named():
    class Orders(Items):
        def __init__(self):
            pass

    for read in (Source([Orders()]).read(), Orders().request("orders")):
        with pytest.raises(ConfigError, match=r"Orders\.__init__ does not call super"):
            await read


async def test_source_reads_parents_from_the_cache(tmp_path):
    class Children(HttpSubStream, Items):
        def path(self, context):
            return f"{context.stream_slice['parent']['id']}/children"

    class CachedItems(Items):
        use_cache = True

    api = RecordingApi()
    parents, child = CachedItems(transport=api), Children(CachedItems(transport=api), transport=api)

    async with Source([parents, child], authenticator=TokenAuthenticator("t"), cache_dir=tmp_path) as source:
        await source.read("cached_items")
        await source.read("children")

    assert [path for path, _ in api.calls] == ["/cached_items", "/1/children"]


async def test_cached_parents_belong_to_one_credential(tmp_path):
    class Shops(Items):
        pass

    class Orders(HttpSubStream, Items):
        use_cache = True
        authenticator = None

    class Lines(HttpSubStream, Items):
        pass

    api = RecordingApi()
    for token in ("a", "b"):
        lines = Lines(Orders(Shops()))
        await Source([lines], transport=api, authenticator=TokenAuthenticator(token), cache_dir=tmp_path).read()

    assert [path for path, _ in api.calls] == ["/shops", "/orders", "/lines"] * 2


async def test_hook_reads_another_stream_for_its_own_source():
    class Reports(Items):
        def __init__(self, items, **options):
            self.items = items
            super().__init__(**options)

        async def stream_slices(self, state):
            await asyncio.sleep(0.01)  # until both Sources are open
            return [{"item": record["id"]} for record in await self.items.read()]

    api = RecordingApi()
    items = Items(transport=api)
    reports = Reports(items, transport=api)

    await asyncio.gather(
        *(
            Source([items, reports], authenticator=TokenAuthenticator(token)).read("reports")
            for token in ("first", "second")
        )
    )

    assert sorted(api.calls) == [
        ("/items", "Bearer first"),
        ("/items", "Bearer second"),
        ("/reports", "Bearer first"),
        ("/reports", "Bearer second"),
    ]
