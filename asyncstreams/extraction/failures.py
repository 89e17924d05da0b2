"""Failed slices in the form in which an output keeps them, without records and secrets."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, cast

from ..destinations.writer_protocol import FailedSlice
from ..errors import AsyncStreamsError
from ..models import Slice
from ..protocols import Stream
from ..redaction import MASK, cut_queries


def describe_failure(stream: Stream, stream_slice: Slice, error: Exception, now: float) -> FailedSlice:
    """A failed slice, by its partition keys; `now` in seconds since 1970."""
    keys = {**stream_slice.partition, **stream_slice.labels}
    if stream_slice.interval is not None:
        keys.setdefault("interval", list(stream_slice.interval))
    time = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(error, AsyncStreamsError):
        return FailedSlice(stream.name, _plain(keys), error.page, error.status, error.message, time)
    return FailedSlice(stream.name, _plain(keys), None, None, _describe_exception(error), time)


def _describe_exception(error: Exception) -> str:
    """The class of an exception in a hook, and where it was raised: its text may contain values of records."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__} in a hook of the stream{where}"


def _plain(value: Any) -> Any:
    """The value as JSON, without secrets and the queries of URLs."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return cut_queries(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in cast(Mapping[object, object], value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, date):
        return value.isoformat()
    return MASK if hasattr(value, "reveal") else f"<{type(value).__name__}>"
