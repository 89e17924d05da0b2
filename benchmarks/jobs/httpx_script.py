"""The jobs as a hand-written script with httpx and orjson, without retries and checks.

Tuned: one client, whose pool keeps as many connections alive as are used; no lookup of proxies in the
environment; bodies decoded from bytes by orjson; no more concurrent requests than connections, because
the pool of httpx is slow when requests queue in it; and the request for the next cursor page in flight
while the consumer works.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson
from job import Job, Output, run


async def fetch(client: httpx.AsyncClient, url: str, params: dict[str, Any] | None = None) -> Any:
    response = await client.get(url, params=params)
    response.raise_for_status()
    return orjson.loads(response.content)


async def slices(client: httpx.AsyncClient, job: Job, output: Output) -> None:
    numbers = iter(range(1, job.slices + 1))

    async def worker() -> None:
        for number in numbers:
            url, cursor = job.slice_url(number), None
            while True:
                body = await fetch(client, url, {"cursor": cursor} if cursor else None)
                output.add_page(body["data"])
                cursor = body["meta"]["next"]
                if cursor is None:
                    break

    async with asyncio.TaskGroup() as tasks:
        for _ in range(job.concurrency):
            tasks.create_task(worker())


async def numbered(client: httpx.AsyncClient, job: Job, output: Output) -> None:
    numbers = iter(range(1, job.slices + 1))

    async def worker() -> None:
        for number in numbers:
            url, page, last = job.slice_url(number), 0, 1
            while page < last:
                page += 1
                body = await fetch(client, url, {"page": page})
                output.add_page(body["data"])
                last = body["meta"]["pages"]

    async with asyncio.TaskGroup() as tasks:
        for _ in range(job.concurrency):
            tasks.create_task(worker())


async def pages(client: httpx.AsyncClient, job: Job, output: Output) -> None:
    turn = asyncio.Lock()

    async def consume(records: list[dict[str, Any]]) -> None:
        async with turn:
            if pause := output.add_page(records):
                await asyncio.sleep(pause)

    url = job.url + job.path
    first = await fetch(client, url, {"page": 1})
    await consume(first["data"])
    numbers = iter(range(2, first["meta"]["pages"] + 1))
    del first

    async def worker() -> None:
        for number in numbers:
            await consume((await fetch(client, url, {"page": number}))["data"])

    async with asyncio.TaskGroup() as tasks:
        for _ in range(job.concurrency):
            tasks.create_task(worker())


async def cursor(client: httpx.AsyncClient, job: Job, output: Output) -> None:
    url = job.url + job.path
    async with asyncio.TaskGroup() as tasks:
        body = await fetch(client, url)
        while body is not None:
            token = body["meta"]["next"]
            following = tasks.create_task(fetch(client, url, {"cursor": token})) if token else None
            if pause := output.add_page(body["data"]):
                await asyncio.sleep(pause)
            body = await following if following else None


async def main(job: Job, output: Output) -> None:
    limits = httpx.Limits(max_connections=job.concurrency, max_keepalive_connections=job.concurrency)
    async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:
        await {"slices": slices, "numbered": numbered, "pages": pages, "cursor": cursor}[job.shape](client, job, output)


if __name__ == "__main__":
    run(lambda job, output: asyncio.run(main(job, output)), "httpx", "orjson")
