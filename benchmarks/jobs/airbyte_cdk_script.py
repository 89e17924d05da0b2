"""The jobs with the Airbyte CDK's concurrent source, written in Python.

Tuned: one worker for each connection, plus one that generates the slices; a connection pool of the same
size, also for http, where the CDK mounts a pool of 40 for https only; no lookup of proxies in the
environment, which requests otherwise repeats for each request; bodies decoded by orjson; no schema and
thus no transformation; no logging of slices; and its own `read_records`, because with the default one a
stream without a cursor reads one page of each slice. The pages of one slice are read sequentially: the
CDK cannot fetch them concurrently. Records are written without the AirbyteMessage around them, which
saves the encoding of the envelope.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import orjson
import requests
from airbyte_cdk.models import (
    AirbyteMessage,
    ConfiguredAirbyteCatalog,
    ConfiguredAirbyteStream,
    DestinationSyncMode,
    SyncMode,
    Type,
)
from airbyte_cdk.sources.concurrent_source.concurrent_source import ConcurrentSource
from airbyte_cdk.sources.concurrent_source.concurrent_source_adapter import ConcurrentSourceAdapter
from airbyte_cdk.sources.connector_state_manager import ConnectorStateManager
from airbyte_cdk.sources.message import InMemoryMessageRepository
from airbyte_cdk.sources.streams import Stream
from airbyte_cdk.sources.streams.http import HttpStream
from airbyte_cdk.sources.utils.slice_logger import DebugSliceLogger
from job import PAGE_SIZE, Job, Output, run

logging.disable()
warnings.simplefilter("ignore")
LOGGER = logging.getLogger("benchmark")


class Records(HttpStream):
    name = "records"
    primary_key = "id"

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job
        session = self._http_client._session
        session.trust_env = False
        adapter = requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=job.concurrency)
        session.mount("http://", adapter)

    @property
    def url_base(self) -> str:
        return self.job.url

    def get_json_schema(self) -> Mapping[str, Any]:
        return {}

    def stream_slices(self, **_: Any) -> Iterator[Mapping[str, Any]]:
        return ({"number": number} for number in range(1, self.job.slices + 1))

    def path(self, *, stream_slice: Mapping[str, Any] | None = None, **_: Any) -> str:
        return self.job.path.format(stream_slice["number"]) if stream_slice else self.job.path

    def request_params(
        self, stream_state: Any, stream_slice: Any = None, next_page_token: Mapping[str, Any] | None = None
    ) -> MutableMapping[str, Any]:
        return dict(next_page_token or {})

    def next_page_token(self, response: requests.Response) -> Mapping[str, Any] | None:
        meta = response.body["meta"]
        if self.job.shape != "pages":
            return {"cursor": meta["next"]} if meta["next"] else None
        number = response.number = _number(response) + 1
        return {"page": number} if number <= meta["pages"] else None

    def parse_response(self, response: requests.Response, **_: Any) -> Iterable[Mapping[str, Any]]:
        # next_page_token is called afterwards with the same response.
        response.body = orjson.loads(response.content)
        return response.body["data"]

    def read_records(
        self,
        sync_mode: SyncMode,
        cursor_field: list[str] | None = None,
        stream_slice: Mapping[str, Any] | None = None,
        stream_state: Mapping[str, Any] | None = None,
    ) -> Iterable[Mapping[str, Any]]:
        return self._read_pages(
            lambda request, response, state, part: self.parse_response(response), stream_slice, stream_state
        )


def _number(response: requests.Response) -> int:
    _, _, number = response.request.url.partition("page=")
    return int(number) if number else 1


class Source(ConcurrentSourceAdapter):
    def __init__(self, job: Job) -> None:
        self.job = job
        repository = InMemoryMessageRepository()
        workers = job.concurrency + 1
        super().__init__(ConcurrentSource.create(workers, 1, LOGGER, DebugSliceLogger(), repository))

    def check_connection(self, logger: logging.Logger, config: Mapping[str, Any]) -> tuple[bool, Any]:
        return True, None

    def streams(self, config: Mapping[str, Any]) -> list[Stream]:
        return [self.convert_to_concurrent_stream(LOGGER, Records(self.job), ConnectorStateManager())]


def read(job: Job, output: Output) -> None:
    source = Source(job)
    configured = ConfiguredAirbyteStream(
        stream=source.streams({})[0].as_airbyte_stream(),
        sync_mode=SyncMode.full_refresh,
        destination_sync_mode=DestinationSyncMode.append,
    )
    messages: Iterator[AirbyteMessage] = source.read(LOGGER, {}, ConfiguredAirbyteCatalog(streams=[configured]))
    for message in messages:
        if message.type is Type.RECORD:
            output.add_record(message.record.data)
            if job.pause and output.records % (job.every * PAGE_SIZE) == 0:
                time.sleep(job.pause)


if __name__ == "__main__":
    run(read, "airbyte-cdk", "requests", "orjson")
