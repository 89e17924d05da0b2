"""What an extraction records of itself: the events as one record, with the figures of its report and its thresholds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from urllib.parse import urlsplit

from ..clock import Clock
from ..declaration.settings import SETTINGS
from ..declaration.stream import Stream
from ..destinations.writer_protocol import MAX_RUNS_KEPT, DestinationWriter, StoredRun
from ..errors import LocalError, ThresholdMissed
from ..event_log.recorder import RunRecorder, new_record, outcome_of
from ..event_log.run_record import ALREADY_COMPLETE, RESUMED, RunOrigin, RunRecord, StreamRecord, ThresholdRecord
from ..event_log.thresholds import Threshold, check_thresholds
from ..event_log.verdict import with_verdict
from ..events import Listener
from ..execution.report import RunReport, StreamReport
from ..models import Secret, shorten
from ..redaction import MASK, cut_queries

_log = logging.getLogger("asyncstreams")
_SAVE_INTERVAL_S = 30.0
_MAX_VALUE_CHARS = 200
_SECRET_SETTINGS = ("authenticator", "middleware", "transport", "clock")


def new_recording(
    source: object,
    to: object,
    streams: Sequence[Stream],
    clock: Clock,
    *,
    require: Sequence[str],
    event_log: bool | RunOrigin,
    is_whole: bool,
) -> RunRecording | None:
    """The recording of a run of these streams of a Source; None if nothing asks for one.

    `is_whole`: the run reads all streams completely. Raises ConfigError for a threshold of `require` that is invalid.
    """
    class_name = type(source).__name__
    thresholds = check_thresholds(class_name, require, [stream.name for stream in streams])
    if not (event_log or thresholds):
        return None
    path = getattr(to, "path", None)
    shown = type(to).__name__ + ("" if path is None else f" {path}")
    origin = event_log if isinstance(event_log, RunOrigin) else RunOrigin()
    template = replace(
        new_record(class_name, shown, clock.wall(), describe_settings(streams)),
        import_path=origin.import_path,
        command=origin.command,
        is_narrowed=not is_whole,
    )
    recorder = RunRecorder(template, _names_with_parents(streams), clock)
    return RunRecording(recorder, thresholds, clock, is_stored=event_log is not False)


@contextmanager
def listening(recording: RunRecording | None, subscribe: Callable[[Listener], Callable[[], None]]) -> Generator[None]:
    """Pass events to the recording, if there is one, inside the block."""
    remove = None if recording is None else subscribe(recording.recorder)
    try:
        yield
    finally:
        if remove is not None:
            remove()


class RunRecording:
    """The record of one extraction. `thresholds` are judged at its end; `last` is the last whole run of the output.

    `is_stored`: the record goes into the output.
    """

    def __init__(
        self, recorder: RunRecorder, thresholds: Sequence[Threshold], clock: Clock, *, is_stored: bool
    ) -> None:
        self.recorder, self._thresholds, self._clock, self.is_stored = recorder, thresholds, clock, is_stored
        self._save_at = clock.monotonic() + _SAVE_INTERVAL_S
        self.last: RunRecord | None = None
        self.resumed: Collection[str] = ()
        """The streams of which an earlier run, which did not finish, has committed a part."""
        self.result: RunRecord | None = None
        """The record of the run, once it has ended."""

    @property
    def uses_last(self) -> bool:
        """Whether a threshold compares the run with the last one."""
        return any(threshold.uses_last for threshold in self._thresholds)

    @property
    def missed(self) -> Sequence[ThresholdRecord]:
        """The thresholds that the run misses, once it has ended."""
        return [] if self.result is None else [entry for entry in self.result.thresholds if entry.is_met is False]

    def so_far(self) -> RunRecord:
        """The record of the run, which continues."""
        return self.recorder.build()

    def pop_due(self) -> RunRecord | None:
        """The record so far, if it was not stored for 30 s."""
        now = self._clock.monotonic()
        if not self.is_stored or now < self._save_at:
            return None
        self._save_at = now + _SAVE_INTERVAL_S
        return self.so_far()

    def finish(self, report: RunReport, error: BaseException | None, *, is_resumed_later: bool) -> RunRecord:
        """The record of the run, which has ended with this error, with its verdict and thresholds."""
        record = self.recorder.build(outcome_of(error, is_resumed_later=is_resumed_later), error)
        known = {stream.name: stream for stream in record.streams}
        for stream in report.streams:
            is_resumed = stream.stream in self.resumed
            known[stream.stream] = _with_report(known.get(stream.stream), stream, is_resumed=is_resumed)
        record = with_verdict(replace(record, streams=tuple(known.values()), unavailable=dict(report.unavailable)))
        judged = tuple(threshold.evaluate(record, self.last) for threshold in self._thresholds)
        self.result = replace(record, thresholds=judged)
        return self.result


def _names_with_parents(streams: Sequence[Stream]) -> frozenset[str]:
    names: set[str] = set()
    pending = [*streams]
    while pending:
        stream = pending.pop()
        if stream.name not in names:
            names.add(stream.name)
            pending += stream.parents
    return frozenset(names)


def stored_run(record: RunRecord) -> StoredRun:
    """The record as a writer stores it."""
    return StoredRun(record.id, record.to_bytes())


def save_run(writer: DestinationWriter, run: StoredRun) -> None:
    """Store the record of a run. A failure is logged: no row depends on it."""
    try:
        writer.save_run(run)
    except LocalError as error:
        _log.warning("the record of the run is not stored: %s", error)


def last_whole_run(writer: DestinationWriter) -> RunRecord | None:
    """The last run into an output that read all of its streams completely, with which thresholds are compared."""
    for stored in writer.load_runs(MAX_RUNS_KEPT):
        record = RunRecord.from_bytes(stored.record, stored.location)
        if record.is_whole:
            return record
    return None


def threshold_missed(missed: Sequence[ThresholdRecord], report: RunReport) -> ThresholdMissed:
    """The error of a run that misses these thresholds."""
    details = "; ".join(f"{entry.text}: {entry.details}" for entry in missed)
    return ThresholdMissed(
        f"the run misses {len(missed)} of its thresholds: {details}",
        report,
        hint="the rows are committed, and the next run goes on from there",
    )


def _with_report(record: StreamRecord | None, report: StreamReport, *, is_resumed: bool) -> StreamRecord:
    """The record of a stream with the figures of its report; one that an earlier run had read has no events."""
    written = report.written
    was_read = written is not None and written.was_read
    notes: list[str] = []
    if was_read:
        notes.append(f"{ALREADY_COMPLETE}: an earlier run, which did not finish, has read it")
    elif is_resumed:
        notes.append(f"{RESUMED}: an earlier run, which did not finish, has read a part of it")
    if written is not None and written.not_written_because:
        notes.append(f"not written, since {written.not_written_because}")
    if report.repeated_pages:
        notes.append(f"{report.repeated_pages:,} repeated pages left out")
    if report.outside_window:
        notes.append(f"{report.outside_window:,} records outside their window left out")
    if report.left_from is not None:
        count = f"{report.left_for_next_run:,} records " if report.left_for_next_run else ""
        notes.append(f"{count}from {report.left_from} on left for the next run")
    if report.early_timeouts:
        notes.append(f"{report.early_timeouts:,} slow first tries repeated")
    if report.not_raw_because:
        notes.append(f"decoded: {report.not_raw_because}")
    known = record or StreamRecord(report.stream, "complete")
    is_partial = known.outcome == "failed" and report.slices > 0
    return replace(
        known,
        outcome="partial" if is_partial else known.outcome,
        slices=report.slices,
        failed=report.failed,
        ignored=report.ignored,
        missing=report.missing,
        pages=report.pages,
        records=report.records,
        quarantined=report.quarantined,
        rows=None if written is None or was_read else written.rows,
        notes=tuple(notes),
    )


def describe_settings(streams: Sequence[Stream]) -> Mapping[str, Mapping[str, str]]:
    """The settings of each stream that differ from their defaults, as text without secrets."""
    described: dict[str, Mapping[str, str]] = {}
    for stream in streams:
        values = {name: getattr(stream.resolved, name) for name in SETTINGS if name not in ("name", "url_base")}
        changed = {name: value for name, value in values.items() if _differs(value, SETTINGS[name].default)}
        described[stream.name] = {"url_base": _origin_of(stream.url_base)} | {
            name: type(value).__name__ if name in _SECRET_SETTINGS else _describe(value)
            for name, value in changed.items()
        }
    return described


def _origin_of(url: str) -> str:
    """Scheme and host: the path of a URL may contain a token."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}" + (f":{parts.port}" if parts.port else "")


def _differs(value: object, default: object) -> bool:
    return value is not default and type(value).__eq__(value, default) is not True


def _describe(value: object) -> str:
    """A setting as text: plain values, and the value objects of this package; of all others the class."""
    if isinstance(value, Secret):
        return MASK
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, str):
        return shorten(cut_queries(value), _MAX_VALUE_CHARS)
    if isinstance(value, list | tuple | set | frozenset):
        return shorten(", ".join(_describe(each) for each in value), _MAX_VALUE_CHARS)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # of any type
    if is_dataclass(value) and not isinstance(value, type) and type(value).__module__.startswith("asyncstreams"):
        parts = [(each.name, getattr(value, each.name), each.default) for each in fields(value) if each.repr]
        shown = ", ".join(f"{name}={_describe(part)}" for name, part, default in parts if part != default)
        return shorten(f"{type(value).__name__}({shown})", _MAX_VALUE_CHARS)
    return type(value).__name__
