"""The Protocol of streams, for the packages below `streams`."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol

from ..errors import HttpStatusError
from ..events import Listener
from ..messages import Response
from ..models import ParamsInput, RequestContext, ResponseAction, Secret, Slice
from ..protocols import ParentPages, ParsedRecords, SliceInput
from .settings import ResolvedSettings


class Stream(Protocol):
    """A stream as the packages below `streams` know it: its settings and its hooks.

    `url_base` is read for each request, because a stream may learn its host in `stream_slices`.
    """

    name: str
    url_base: str

    @property
    def resolved(self) -> ResolvedSettings:
        """The settings with which a run reads the stream; outside of a run, those that are declared now."""
        ...

    @property
    def parents(self) -> Sequence[Stream]:
        """The streams whose records become the slices of this stream."""
        ...

    def read_parents_from(self, feed: ParentPages | None) -> None:
        """Make `stream_slices` use the pages of the parents that the run reads."""
        ...

    @property
    def streams_body(self) -> bool:
        """Whether `parse_response` reads the body while it arrives."""
        ...

    @property
    def uses_paginator(self) -> bool:
        """Whether `paginator` selects the next page, because `next_page_token` is not overridden."""
        ...

    @property
    def uses_default_parser(self) -> bool:
        """Whether the records are the array at `records_path`, because `parse_response` is not overridden."""
        ...

    @property
    def listeners(self) -> Sequence[Listener]:
        """Functions that are called with each event of the stream."""
        ...

    async def probe(self) -> str | None:
        """The reason why the stream is unavailable, found before it is read, or None."""
        ...

    def why_unavailable(self, error: HttpStatusError) -> str | None:
        """The reason why the stream is unavailable, given the error of its first request; otherwise None."""
        ...

    def path(self, context: RequestContext) -> str | Secret | tuple[str | int | Secret, ...]: ...
    def request_params(self, context: RequestContext) -> ParamsInput | None: ...
    def request_headers(self, context: RequestContext) -> Mapping[str, str | Secret] | None: ...
    def request_json(self, context: RequestContext) -> Any: ...
    def request_data(
        self, context: RequestContext
    ) -> Mapping[str, Any] | Sequence[tuple[str, Any]] | str | bytes | Secret | None: ...
    def request_kwargs(self, context: RequestContext) -> Mapping[str, Any]: ...
    def next_page_token(self, response: Response, context: RequestContext) -> Any: ...
    def stream_slices(self, state: Mapping[str, Any]) -> SliceInput: ...
    def partitions_of(self, stream_slice: Slice) -> Sequence[Mapping[str, Any]]: ...
    def children_of(self, stream_slice: Slice) -> Sequence[Mapping[str, Any]]: ...
    def split_slice(self, stream_slice: Slice, error: HttpStatusError) -> Sequence[Slice]: ...
    def parse_response(self, response: Response, context: RequestContext) -> ParsedRecords: ...
    def should_retry(self, response: Response) -> bool: ...
    def classify(self, response: Response, context: RequestContext) -> ResponseAction: ...
    def backoff_time(self, response: Response) -> float | None: ...
    def get_json_schema(self) -> Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None: ...
