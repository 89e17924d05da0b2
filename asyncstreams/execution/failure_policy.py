"""Consequences of failed slices, refused children and missing parents for their streams and the run."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anyio

from ..declaration.stream import Stream
from ..errors import (
    AsyncStreamsError,
    ConfigError,
    CrossOriginLink,
    CursorMismatch,
    HostUnavailable,
    HttpStatusError,
    LocalError,
    PaginationUndeclared,
    PartialFailure,
    RateLimitWaitTooLong,
    RequestBlocked,
    SchemaError,
    StreamUnavailable,
    UnexpectedContent,
)
from ..models import Slice, shorten
from ..state.stream_selection import StreamSelection
from .missing_children import MissingChildren
from .parent_coordinator import ParentFeed
from .report import RunReport
from .slice_source import SliceLabels
from .stream_run import StreamRun

_MAX_SLICES_SHOWN = 3
# 405: http_method; 415: the type of the body.
_DECLARATION_STATUSES = (405, 415)
_MIN_FAILED_CHILDREN = 3
_log = logging.getLogger("asyncstreams")


class FailurePolicy:
    """Records the failures of a run and decides what each of them ends.

    A failed slice does not affect its siblings, with these exceptions. ConfigError (and so AuthError), HostUnavailable,
    LocalError and AssertionError end the run. SchemaError, PaginationUndeclared and CursorMismatch end the stream, and
    so do more than `max_failed_slices` failures, and what shows a wrong declaration before any response of the stream
    could be parsed. After RateLimitWaitTooLong no further slice of the stream is started. With `stop_on_error`, the
    first failure ends the run.
    """

    def __init__(self, selections: Sequence[StreamSelection], *, stop_on_error: bool) -> None:
        self._names = [selection.stream.name for selection in selections]
        stores = (selection.state_store for selection in selections if selection.state_store is not None)
        self._store = next(stores, None)  # also for parents, which have none of their own
        self._stop_on_error = stop_on_error
        self.scope = anyio.CancelScope()
        """The scope of the run, which `abort` cancels."""
        self.fatal_error: Exception | None = None
        self.unavailable: dict[str, StreamUnavailable] = {}

    def abort(self, error: Exception) -> None:
        """End the run; its error is the first one given."""
        if self.fatal_error is None:
            self.fatal_error = error
        self.scope.cancel()

    def mark_unavailable(self, stream: Stream, error: StreamUnavailable) -> None:
        """Note that a stream is unavailable; the first reason counts."""
        self.unavailable.setdefault(stream.name, error)

    def unavailable_streams(self) -> list[tuple[str, StreamUnavailable]]:
        """The unavailable streams among those that the caller selected, without their parents."""
        return [(name, self.unavailable[name]) for name in self._names if name in self.unavailable]

    def handle(self, run: StreamRun, stream_slice: Slice, error: Exception, scope: anyio.CancelScope) -> None:
        """Record a failed slice; end its stream, whose tasks are in `scope`, or the run if the failure requires it."""
        stream, progress = run.stream, run.progress
        try:
            has_begun = progress.read.pages or progress.failures
            is_first = not (has_begun or (stream.parents and MissingChildren.concerns(error)))
            unavailable = as_unavailable(stream, error) if is_first else None
        except Exception as hook_error:  # raised by the availability strategy
            self.abort(hook_error)
            return
        if unavailable is not None:
            self.mark_unavailable(stream, unavailable)
            scope.cancel()
            return
        progress.record_failure(stream_slice, error)
        if self._store is not None:
            self._store.record_failure(stream, stream_slice, error)
        is_of_run = isinstance(error, ConfigError | HostUnavailable | LocalError | AssertionError)
        if self._stop_on_error or (is_of_run and not isinstance(error, PaginationUndeclared | CursorMismatch)):
            self.abort(error)
        elif isinstance(error, RateLimitWaitTooLong):
            # Requests in flight complete; all later ones would meet the same wait.
            progress.stop_early()
        elif (
            isinstance(error, SchemaError | PaginationUndeclared | CursorMismatch)
            or len(progress.failures) > stream.resolved.max_failed_slices
            or shows_wrong_declaration(run, error)
        ):
            progress.stop_early()
            scope.cancel()
        elif progress.slices_started > 1 or len(self._names) > 1:
            # Other slices continue, and the final error may be a long time away.
            problem = str(error).partition("\n")[0]
            _log.warning("%s: slice %s failed: %s", stream.name, shorten(str(stream_slice)), problem)

    def leave_out(
        self,
        run: StreamRun,
        children: MissingChildren,
        stream_slice: Slice,
        error: HttpStatusError,
        scope: anyio.CancelScope,
    ) -> None:
        """Leave out a slice whose child is refused or missing; end its stream if it is unavailable because of that."""
        try:
            reason = children.add(stream_slice, error)
        except Exception as hook_error:  # raised by the availability strategy
            self.abort(hook_error)
            return
        problem = str(error).partition("\n")[0]
        run.progress.warn_once(
            "missing", f"{shorten(str(stream_slice))} is left out: {problem}; the report names such children"
        )
        if reason is not None:
            self.mark_unavailable(run.stream, unavailable_because(run.stream, reason, error))
            scope.cancel()

    def check_children(self, run: StreamRun) -> None:
        """At the end of a substream, mark it as unavailable if all of its children are refused."""
        children, started = run.children, run.progress.slices_started
        if children is None or children.error is None or children.count < started:
            return
        if (reason := children.reason_at_end()) is not None:
            self.mark_unavailable(run.stream, unavailable_because(run.stream, reason, children.error))
        else:
            run.progress.warn_once(
                "all missing",
                f"no child was found ({started:,} requested): if this is wrong, check url_base and path()",
            )

    def check_parents(self, run: StreamRun, feed: ParentFeed) -> None:
        """Mark a substream as stopped early, or as unavailable, if a parent was not read completely."""
        missing = feed.incomplete_parents
        for parent in missing:
            if (unavailable := self.unavailable.get(parent.name)) is not None:
                reason = f"its parent {parent.name} is unavailable: {unavailable.reason}"
                self.mark_unavailable(run.stream, StreamUnavailable(reason).locate(stream=run.stream.name))
                return
        if missing:
            run.progress.stop_early()

    def final_error(self, runs: Sequence[StreamRun], report: RunReport) -> Exception | None:
        """The error that the consumer gets after the last page, or None."""
        if self.fatal_error is not None:
            return self.fatal_error
        if any(run.progress.failures for run in runs):
            return combine_failures(runs, report)
        unavailable = [error for _, error in self.unavailable_streams()]
        if unavailable and len(unavailable) == len(self._names):
            if len(unavailable) == 1:
                return unavailable[0]
            reasons = "; ".join(f"{error.stream}: {error.reason}" for error in unavailable)
            return StreamUnavailable(f"none of the {len(unavailable)} streams can be read: {reasons}")
        return None


def split_rejected_slice(stream: Stream, stream_slice: Slice, error: Exception) -> Sequence[Slice]:
    """The parts to read in place of a slice that the API rejected as too large; empty for any other failure."""
    if isinstance(error, HttpStatusError) and error.page == 0 and error.from_page_request:
        return [SliceLabels(stream).add_to(part) for part in stream.split_slice(stream_slice, error)]
    return ()


def combine_failures(runs: Sequence[StreamRun], report: RunReport) -> Exception:
    """The error that ends a run with failed slices: a lone slice's own error, or a PartialFailure."""
    failed = [(run, stream_slice, error) for run in runs for stream_slice, error in run.progress.failures]
    started = sum(run.progress.slices_started for run in runs)
    if started <= 1:
        return failed[0][2]
    shown = ", ".join(
        f"{run.stream.name} {shorten(str(stream_slice))}" for run, stream_slice, _ in failed[:_MAX_SLICES_SHOWN]
    )
    ellipsis = ", ..." if len(failed) > _MAX_SLICES_SHOWN else ""
    stopped = ", ".join(run.stream.name for run in runs if run.progress.stopped_early)
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
    if run.pagination.has_parsed_response or (run.stream.parents and len(run.progress.failures) < _MIN_FAILED_CHILDREN):
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
