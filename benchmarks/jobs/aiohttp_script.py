"""The jobs as a hand-written script with aiohttp and orjson, without checks of the data.

Tuned: one session without cookies, whose connector keeps as many connections alive as are used; bodies
decoded from bytes by orjson; workers that share an iterator instead of one task for each request; and
the request for the next cursor page in flight while the consumer works. A request is repeated after 429, 5xx,
a failed connection, a timeout and a broken body. UVLOOP=1 selects uvloop instead of the event loop of asyncio.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import random
from typing import Any

import aiohttp
import orjson
from job import Job, Output, run

MAX_TRIES = 5
BACKOFF_S = 0.25
FAILURES = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError, orjson.JSONDecodeError)


class Api:
    """Requests with retries, spaced out evenly if there is a rate."""

    def __init__(self, session: aiohttp.ClientSession, rate: float = 0.0) -> None:
        self._session, self._rate, self._next_at = session, rate, 0.0

    async def fetch(self, url: str, params: dict[str, Any] | None = None) -> Any:
        for number in range(MAX_TRIES):
            if self._rate:
                await self._wait_for_turn()
            delay = random.uniform(0, BACKOFF_S * 2**number)
            try:
                async with self._session.get(url, params=params) as response:
                    body = await response.read()
                    if response.status != 429 and response.status < 500:
                        response.raise_for_status()
                        return orjson.loads(body)
                    delay = float(response.headers.get("Retry-After", delay))
            except FAILURES:
                pass
            await asyncio.sleep(delay)
        raise SystemExit(f"{url}: failed {MAX_TRIES} times")

    async def _wait_for_turn(self) -> None:
        now = asyncio.get_running_loop().time()
        at = max(now, self._next_at)
        self._next_at = at + 1 / self._rate
        if at > now:
            await asyncio.sleep(at - now)


async def slices(api: Api, job: Job, output: Output) -> None:
    numbers = iter(range(1, job.slices + 1))

    async def worker() -> None:
        for number in numbers:
            url, cursor = job.slice_url(number), None
            while True:
                body = await api.fetch(url, {"cursor": cursor} if cursor else None)
                output.add_page(body["data"])
                cursor = body["meta"]["next"]
                if cursor is None:
                    break

    async with asyncio.TaskGroup() as tasks:
        for _ in range(job.concurrency):
            tasks.create_task(worker())


async def numbered(api: Api, job: Job, output: Output) -> None:
    numbers = iter(range(1, job.slices + 1))

    async def worker() -> None:
        for number in numbers:
            url, page, last = job.slice_url(number), 0, 1
            while page < last:
                page += 1
                body = await api.fetch(url, {"page": page})
                output.add_page(body["data"])
                last = body["meta"]["pages"]

    async with asyncio.TaskGroup() as tasks:
        for _ in range(job.concurrency):
            tasks.create_task(worker())


async def pages(api: Api, job: Job, output: Output) -> None:
    turn = asyncio.Lock()

    async def consume(records: list[dict[str, Any]]) -> None:
        async with turn:
            if pause := output.add_page(records):
                await asyncio.sleep(pause)

    url = job.url + job.path
    first = await api.fetch(url, {"page": 1})
    await consume(first["data"])
    numbers = iter(range(2, first["meta"]["pages"] + 1))
    del first

    async def worker() -> None:
        for number in numbers:
            await consume((await api.fetch(url, {"page": number}))["data"])

    async with asyncio.TaskGroup() as tasks:
        for _ in range(job.concurrency):
            tasks.create_task(worker())


async def cursor(api: Api, job: Job, output: Output) -> None:
    url = job.url + job.path
    async with asyncio.TaskGroup() as tasks:
        body = await api.fetch(url)
        while body is not None:
            token = body["meta"]["next"]
            following = tasks.create_task(api.fetch(url, {"cursor": token})) if token else None
            if pause := output.add_page(body["data"]):
                await asyncio.sleep(pause)
            body = await following if following else None


async def main(job: Job, output: Output) -> None:
    connector = aiohttp.TCPConnector(limit=job.concurrency)
    timeout = aiohttp.ClientTimeout(total=300, sock_connect=30, sock_read=job.timeout or None)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        read = {"slices": slices, "numbered": numbered, "pages": pages, "cursor": cursor}[job.shape]
        await read(Api(session, job.rate), job, output)


if __name__ == "__main__":
    with_uvloop = os.environ.get("UVLOOP") == "1"
    loop_factory = importlib.import_module("uvloop").new_event_loop if with_uvloop else None

    def read(job: Job, output: Output) -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main(job, output))

    run(read, "aiohttp", "orjson", *(["uvloop"] if with_uvloop else []))
