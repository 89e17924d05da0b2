"""The jobs as a hand-written script with aiohttp, orjson and uvloop, without retries and checks.

Tuned: one session without cookies, whose connector keeps as many connections alive as are used; bodies
decoded from bytes by orjson; workers that share an iterator instead of one task for each request; and
the request for the next cursor page in flight while the consumer works.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import orjson
import uvloop
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
        await {"slices": slices, "pages": pages, "cursor": cursor}[job.shape](session, job, output)


if __name__ == "__main__":
    run(lambda job, output: uvloop.run(main(job, output)), "aiohttp", "orjson", "uvloop")
