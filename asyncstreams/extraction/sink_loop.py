"""The loop that hands pages to a custom sink, and the checks that every destination passes first."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from .._json import encode_canonical
from ..destinations.base import Destination, Sink
from ..errors import ConfigError
from ..execution.read_handle import ReadHandle
from ..execution.report import RunReport
from ..models import Page
from ..redaction import has_secret
from .run_recording import RunRecording, threshold_missed
from .run_scope import RunScope
from .signals import exit_on_signals


def check_destination(class_name: str, to: object, state: Mapping[str, Any] | None, scope: RunScope) -> None:
    """Raises ConfigError if `to` is neither a Destination nor a Sink, or cannot be used with `state` or `scope`.

    `class_name` is the caller's, for the message.
    """
    if isinstance(to, Destination):
        if state is not None:
            raise ConfigError(
                f"{class_name}.extract(state=...): the output keeps its own state", hint="remove the state argument"
            )
    elif isinstance(to, str | os.PathLike):
        path = os.fspath(cast("str | os.PathLike[str]", to))
        raise ConfigError(
            f"{class_name}.extract(to={path!r}): a path does not say which format to write",
            hint=f"for JSON lines, pass to=JsonLines({path!r})",
        )
    elif isinstance(to, io.IOBase | type) or not isinstance(to, Sink):
        kind = to.__name__ if isinstance(to, type) else type(to).__name__
        raise ConfigError(
            f"{class_name}.extract(to=...): {kind} is not a destination",
            hint='use JsonLines("out/"), SQLite("out.sqlite"), or an object with '
            "`async def write(self, page, batch_id)`",
        )
    elif scope.is_range or scope.refresh:
        raise ConfigError(
            f"{class_name}.extract: since, until and refresh need a destination that keeps its own state",
            hint='use one such as JsonLines("out/") or SQLite("out.sqlite"), or a State of its own for this read',
        )


async def extract_to_sink(sink: Sink, read: ReadHandle[Page], recording: RunRecording | None) -> RunReport:
    """Write every page to the sink, one at a time; acknowledge each page when `write` has returned.

    Raises ThresholdMissed, and what reading and the sink raise.
    """

    async def write_pages() -> RunReport:
        async with read as pages:
            async for page in pages:
                await sink.write(page, batch_id_of(page))
                page.ack()
        if recording is None:
            return read.report
        record = recording.finish(read.report, None, is_resumed_later=False)
        report = replace(read.report, record=record)
        if missed := recording.missed:
            raise threshold_missed(missed, report)
        return report

    return await exit_on_signals(write_pages)


def batch_id_of(page: Page) -> str:
    """An id that depends only on the stream, the slice and the number of the page."""
    slice_ = page.stream_slice
    if has_secret(slice_.partition):
        raise ConfigError(
            f"{page.stream}: a slice contains a Secret, so its batches have no id that stays the same",
            hint="put the id of the account into the slice, and look its secret up in the hooks",
        )
    interval = None if slice_.interval is None else [None if end is None else str(end) for end in slice_.interval]
    identity = encode_canonical([page.stream, slice_.partition, interval])
    return f"{hashlib.blake2b(identity, digest_size=12).hexdigest()}-{page.number}"
