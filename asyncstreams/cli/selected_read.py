"""Reads of selected streams that no destination keeps: within a range of the cursor, or of a first request only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..execution.scheduler import Scheduler
from ..extraction.run_scope import RunScope
from ..source import Source
from ..state.compatibility import identity_of
from ..state.stream_selection import StateStore, StreamSelection
from ..state.stream_state import StreamState, empty_state
from ..streams.http_stream import HttpStream, bind, client_for


def selected_scheduler(
    source: Source,
    names: Sequence[str],
    scope: RunScope,
    states: Mapping[str, StreamState],
    *,
    state_store: StateStore | None = None,
    stop_on_error: bool = False,
) -> Scheduler:
    """The scheduler of a read of an open Source. Streams without a state are read from the beginning.

    With a `state_store` the end of the range is one that a later run can continue from. Raises ConfigError if the
    streams cannot be read in this range.
    """
    streams = [source[name] for name in names] or list(source)
    reader = streams[0].own_reader.choose(streams[0].name)
    bound = bind(streams, reader)
    scope.check(type(source).__name__, bound)
    selections = [
        StreamSelection(
            stream,
            scope.slices.get(stream.name),
            states.get(stream.name) or empty_state(identity_of(stream)),
            scope.limit,
            state_store=state_store,
            cursor_range=(scope.since, scope.until),
        )
        for stream in bound
    ]
    max_concurrency = reader.options.get("max_concurrency", HttpStream.max_concurrency)
    return Scheduler(selections, client_for, max_concurrency, stop_on_error=stop_on_error)
