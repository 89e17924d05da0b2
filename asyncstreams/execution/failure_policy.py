"""Consequences of a failed slice for its stream and its run."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import (
    AsyncStreamsError,
    CrossOriginLink,
    HttpStatusError,
    PartialFailure,
    RequestBlocked,
    StreamUnavailable,
    UnexpectedContent,
)
from ..models import Slice, shorten
from ..protocols import Stream
from .report import RunReport
from .slice_source import SliceLabels
from .stream_run import StreamRun

_MAX_SLICES_SHOWN = 3
# 405: http_method; 415: the type of the body.
_DECLARATION_STATUSES = (405, 415)
_MIN_FAILED_CHILDREN = 3


def split_rejected_slice(stream: Stream, stream_slice: Slice, error: Exception) -> Sequence[Slice]:
    """The parts to read in place of a slice that the API rejected as too large; empty for any other failure."""
    if isinstance(error, HttpStatusError) and error.page == 0 and error.from_page_request:
        return [SliceLabels(stream).add_to(part) for part in stream.split_slice(stream_slice, error)]
    return ()


def combine_failures(runs: Sequence[StreamRun], report: RunReport) -> Exception:
    """The error that ends a run with failed slices: a lone slice's own error, or a PartialFailure."""
    failed = [(run, stream_slice, error) for run in runs for stream_slice, error in run.failed]
    started = sum(run.slices_started for run in runs)
    if started <= 1:
        return failed[0][2]
    shown = ", ".join(
        f"{run.stream.name} {shorten(str(stream_slice))}" for run, stream_slice, _ in failed[:_MAX_SLICES_SHOWN]
    )
    ellipsis = ", ..." if len(failed) > _MAX_SLICES_SHOWN else ""
    stopped = ", ".join(run.stream.name for run in runs if run.stopped_early)
    message = f"{len(failed)} of {started} slices failed ({shown}{ellipsis})"
    message += f"; {stopped} stopped early" if stopped else ""
    hint = "read again, since some slices were not started" if stopped else "read the failed slices again with slices="
    errors = tuple(error for *_, error in failed)
    return PartialFailure(
        f"{message}; the first error: {errors[0]}", errors, report, hint=f"`errors` holds all of them; {hint}"
    )


def shows_wrong_declaration(run: StreamRun, error: Exception) -> bool:
    """Whether a failure would be that of every other slice, too, because no response could be parsed yet.

    A body of the wrong kind, a link to an origin that is not allowed, a wrong method, or an exception in a hook. Since
    one parent may be unlike the others, three children must have failed.
    """
    if run.has_parsed_response or (run.stream.parents and len(run.failed) < _MIN_FAILED_CHILDREN):
        return False
    if isinstance(error, HttpStatusError):
        return error.from_page_request and error.status in _DECLARATION_STATUSES
    return isinstance(error, UnexpectedContent | CrossOriginLink) or not isinstance(error, AsyncStreamsError)


def as_unavailable(stream: Stream, error: Exception) -> StreamUnavailable | None:
    """The StreamUnavailable that the error of a stream's first request stands for, or None.

    A RequestBlocked stands for none, whatever the strategy says: the stream must not be skipped.
    """
    if not isinstance(error, HttpStatusError) or isinstance(error, RequestBlocked):
        return None
    if (reason := stream.why_unavailable(error)) is None:
        return None
    return unavailable_because(stream, reason, error)


def unavailable_because(stream: Stream, reason: str, error: HttpStatusError) -> StreamUnavailable:
    """The StreamUnavailable for a reason that an error shows."""
    unavailable = StreamUnavailable(reason, status=error.status)
    unavailable.__cause__ = error
    location = {"url": error.url, "method": error.method, "tries": error.tries, "stream_slice": error.stream_slice}
    return unavailable.locate(stream=stream.name, **location)
