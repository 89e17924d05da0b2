"""The jobs with the Singer SDK: a tap, and in the same process a target that writes the records.

Tuned: bodies decoded by orjson, without JSONPath; a writer that takes the messages as objects, so no JSON
goes through a pipe to another process; no type conformance; a pool that keeps its connection; no lookup
of proxies in the environment. A tap reads its partitions sequentially, so there are no workers to tune.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterable
from typing import Any

import orjson
import requests
from job import PAGE_SIZE, Job, Output, run
from singer_sdk import RESTStream, Tap
from singer_sdk import typing as th
from singer_sdk.helpers.conform import TypeConformanceLevel
from singer_sdk.pagination import BaseAPIPaginator
from singer_sdk.singerlib import RecordMessage, SingerMessageType
from singer_sdk.singerlib.encoding import GenericSingerWriter

os.environ["SINGER_SDK_LOG_LEVEL"] = "CRITICAL"
logging.disable()
warnings.simplefilter("ignore")


class Next(BaseAPIPaginator[Any]):
    """The cursor or number of the next page."""

    def __init__(self, shape: str) -> None:
        super().__init__(None)
        self.shape = shape

    def get_next(self, response: requests.Response) -> Any:
        meta = response.body["meta"]
        if self.shape != "pages":
            return meta["next"]
        following = (self.current_value or 1) + 1
        return following if following <= meta["pages"] else None


class Records(RESTStream[Any]):
    name = "records"
    path = ""
    primary_keys = ("id",)
    # Without declared properties, nothing is deselected and nothing is conformed.
    schema = th.PropertiesList(th.Property("id", th.IntegerType), additional_properties=True).to_dict()
    TYPE_CONFORMANCE_LEVEL = TypeConformanceLevel.NONE
    state_partitioning_keys = ()

    @property
    def job(self) -> Job:
        return self._tap.job

    @property
    def url_base(self) -> str:
        return self.job.url

    @property
    def partitions(self) -> list[dict[str, Any]] | None:
        if self.job.shape != "slices":
            return None
        return [{"number": number} for number in range(1, self.job.slices + 1)]

    @property
    def requests_session(self) -> requests.Session:
        session = super().requests_session
        session.trust_env = False
        return session

    def get_url(self, context: Any) -> str:
        return self.job.slice_url(context["number"]) if context else self.job.url + self.job.path

    def get_url_params(self, context: Any, next_page_token: Any) -> dict[str, Any]:
        if next_page_token is None:
            return {}
        return {"page" if self.job.shape == "pages" else "cursor": next_page_token}

    def get_new_paginator(self) -> Next:
        return Next(self.job.shape)

    def parse_response(self, response: requests.Response) -> Iterable[dict[str, Any]]:
        # get_next is called afterwards with the same response.
        response.body = orjson.loads(response.content)
        return response.body["data"]


class Target(GenericSingerWriter[str, Any]):
    """Receives the messages in place of standard output."""

    def __init__(self, job: Job, output: Output) -> None:
        super().__init__()
        self.job, self.output = job, output

    def serialize_message(self, message: Any) -> str:
        raise NotImplementedError

    def write_message(self, message: Any) -> None:
        if message.type != SingerMessageType.RECORD:
            return
        assert isinstance(message, RecordMessage)
        self.output.add_record(message.record)
        if self.job.pause and self.output.records % (self.job.every * PAGE_SIZE) == 0:
            time.sleep(self.job.pause)


class BenchmarkTap(Tap):
    name = "tap-benchmark"
    config_jsonschema = th.PropertiesList().to_dict()

    def __init__(self, job: Job, output: Output) -> None:
        self.job = job
        super().__init__(config={}, message_writer=Target(job, output))

    def discover_streams(self) -> list[Records]:
        return [Records(self)]


def read(job: Job, output: Output) -> None:
    BenchmarkTap(job, output).sync_all()


if __name__ == "__main__":
    run(read, "singer-sdk", "requests", "orjson")
