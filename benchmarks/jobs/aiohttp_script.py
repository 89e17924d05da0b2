"""The jobs as a hand-written script with aiohttp and orjson, without retries and checks.

Tuned: one session without cookies, whose connector keeps as many connections alive as are used; bodies
decoded from bytes by orjson; workers that share an iterator instead of one task for each request; and
the request for the next cursor page in flight while the consumer works. UVLOOP=1 selects uvloop instead of
the event loop of asyncio.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from typing import Any

import aiohttp
import orjson
from job import Job, Output, run


async def fetch(session: aiohttp.ClientSession, url: str, params: dict[str, Any] | None = None) -> Any:
    async with session.get(url, params=params) as response:
        response.raise_for_status()
        return orjson.loads(await response.read())


async def slices(session: aiohttp.ClientSession, job: Job, output: Output) -> None:
    numbers = iter(range(1, job.slices + 1))

    async def worker() -> None:
        for number in numbers:
            url, cursor = job.slice_url(number), None
            while True:
                body = await fetch(session, url, {"cursor": cursor} if cursor else None)
                output.add_page(body["data"])
                cursor = body["meta"]["next"]
                if cursor is None:
                    break

    async with asyncio.TaskGroup() as tasks:
        for _ in range(job.concurrency):
            tasks.create_task(worker())


async def numbered(session: aiohttp.ClientSession, job: Job, output: Output) -> None:
    numbers = iter(range(1, job.slices + 1))

    async def worker() -> None:
        for number in numbers:
            url, page, last = job.slice_url(number), 0, 1
            while page < last:
                page += 1
                body = await fetch(session, url, {"page": page})
                output.add_page(body["data"])
                last = body["meta"]["pages"]

    async with asyncio.TaskGroup() as tasks:
        for _ in range(job.concurrency):
            tasks.create_task(worker())


async def pages(session: aiohttp.ClientSession, job: Job, output: Output) -> None:
    turn = asyncio.Lock()

    async def consume(records: list[dict[str, Any]]) -> None:
        async with turn:
            if pause := output.add_page(records):
                await asyncio.sleep(pause)

    url = job.url + job.path
    first = await fetch(session, url, {"page": 1})
    await consume(first["data"])
    numbers = iter(range(2, first["meta"]["pages"] + 1))
    del first

    async def worker() -> None:
        for number in numbers:
            await consume((await fetch(session, url, {"page": number}))["data"])

    async with asyncio.TaskGroup() as tasks:
        for _ in range(job.concurrency):
            tasks.create_task(worker())


async def cursor(session: aiohttp.ClientSession, job: Job, output: Output) -> None:
    url = job.url + job.path
    async with asyncio.TaskGroup() as tasks:
        body = await fetch(session, url)
        while body is not None:
            token = body["meta"]["next"]
            following = tasks.create_task(fetch(session, url, {"cursor": token})) if token else None
            if pause := output.add_page(body["data"]):
                await asyncio.sleep(pause)
            body = await following if following else None


async def main(job: Job, output: Output) -> None:
    connector = aiohttp.TCPConnector(limit=job.concurrency)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        await {"slices": slices, "numbered": numbered, "pages": pages, "cursor": cursor}[job.shape](
            session, job, output
        )


if __name__ == "__main__":
    with_uvloop = os.environ.get("UVLOOP") == "1"
    loop_factory = importlib.import_module("uvloop").new_event_loop if with_uvloop else None

    def read(job: Job, output: Output) -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main(job, output))

    run(read, "aiohttp", "orjson", *(["uvloop"] if with_uvloop else []))
