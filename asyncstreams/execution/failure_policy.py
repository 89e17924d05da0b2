"""What does it mean that a slice failed: for its stream, and for the run?"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import HttpStatusError, PartialFailure, StreamUnavailable
from ..models import Slice
from ..protocols import Stream
from .report import RunReport
from .stream_run import StreamRun

_SHOWN = 3


def halves_of(stream: Stream, stream_slice: Slice, error: Exception) -> Sequence[Slice]:
    """What a slice is to be read as that the API did not take as a whole; nothing where it is simply a failure."""
    if isinstance(error, HttpStatusError) and error.page == 0 and error.of_page:
        return stream.split_slice(stream_slice, error)
    return ()


def failure_of(runs: Sequence[StreamRun], report: RunReport) -> Exception:
    """What a run ends with of which slices failed: the error itself, where there was one slice at most."""
    failed = [(run, stream_slice, error) for run in runs for stream_slice, error in run.failed]
    begun = sum(run.begun for run in runs)
    if begun <= 1:
        return failed[0][2]
    slices = ", ".join(f"{run.stream.name} {dict(stream_slice)}" for run, stream_slice, _ in failed[:_SHOWN])
    more = ", ..." if len(failed) > _SHOWN else ""
    cut_short = ", ".join(run.stream.name for run in runs if run.is_cut_short)
    told = f"{len(failed)} of {begun} slices failed ({slices}{more})"
    told += f", and {cut_short} was ended before its end" if cut_short else ""
    hint = "read again: some slices were not even begun" if cut_short else "read again with slices= those that failed"
    errors = tuple(error for *_, error in failed)
    return PartialFailure(f"{told}; the first: {errors[0]}", errors, report, hint=f"`errors` has them all; {hint}")


def unavailable_by(stream: Stream, error: Exception) -> StreamUnavailable | None:
    """What the error of a stream's first request means, if it means that the stream is unavailable."""
    if not isinstance(error, HttpStatusError) or (reason := stream.why_unavailable(error)) is None:
        return None
    unavailable = StreamUnavailable(reason, status=error.status)
    unavailable.__cause__ = error
    where = {"url": error.url, "method": error.method, "tries": error.tries, "stream_slice": error.stream_slice}
    return unavailable.locate(stream=stream.name, **where)
