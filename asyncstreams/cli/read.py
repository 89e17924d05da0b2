"""The command `read`: records of a Source as JSON Lines, files or tables."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

import anyio
import typer

from .._json import as_array, as_object
from ..destinations.base import Destination
from ..errors import ConfigError, LocalError, PartialFailure, StateCorrupt, ThresholdMissed
from ..event_log.run_record import RunOrigin
from ..events import Event, PageRead
from ..execution.report import RunReport
from ..extraction.run_scope import RunScope
from ..extraction.signals import exit_on_signals
from ..launch import DeadlineReached, summary_lines
from ..redaction import MASK
from ..source import Source
from ..state.state_file import State
from ..state.stream_state import StreamState
from .destination_argument import STDOUT, FolderFormat, destination_for
from .dry_run import show_first_requests
from .failures import CommandOutput, command_output
from .log_lines import shown_run
from .opened_source import OpenedSource, open_source, select_names
from .options import ConfigOption, DebugOption, SetOption, SourceArgument, WriteConfigOption
from .selected_read import selected_scheduler
from .state_folder import make_private_folder
from .stdout_records import LineWriter, write_pages
from .times import parse_bound, parse_seconds

ModeName: TypeAlias = Literal["append", "replace", "upsert", "fail"]
_AUTO, _NONE = "auto", "none"


def add_read(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("read")(read)


def read(
    context: typer.Context,
    source: SourceArgument,
    select: Annotated[
        str | None, typer.Option("--select", "-s", metavar="A,B", help="Streams to read. Default: all.")
    ] = None,
    config: ConfigOption = None,
    flags: SetOption = None,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            "-o",
            metavar="DEST",
            help="- for JSON Lines on stdout, a folder such as out/, shop.duckdb or shop.sqlite.",
        ),
    ] = STDOUT,
    folder_format: Annotated[
        FolderFormat | None, typer.Option("--format", help="Format of a folder. Default: jsonl, or what it holds.")
    ] = None,
    mode: Annotated[
        ModeName | None, typer.Option("--mode", help="What happens to rows of earlier runs. Default: by stream.")
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            metavar="auto|FILE|none",
            help="State of a read to stdout: kept for the user, in FILE, or not at all. Default: none.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", help="Records of each stream.", min=0)] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="T", help="Cursor from here on: 2026-01-31, a number, or 7d (ago).")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="T", help="Cursor up to here, exclusive.")] = None,
    refresh: Annotated[
        str | None, typer.Option("--refresh", metavar="A,B", help="Streams to read again from the beginning.")
    ] = None,
    slices: Annotated[
        str | None,
        typer.Option(
            "--slices", metavar="JSON", help='Slices to read: a list, or {"orders": [{"shop": 7}]} by stream.'
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the first request of each stream, and send nothing.")
    ] = False,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", help="Slices and pages read at once.", min=1)
    ] = None,
    deadline: Annotated[
        str | None, typer.Option("--deadline", metavar="T", help="End in order after this time, such as 30m.")
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option("--require", metavar="TEXT", help="A threshold, such as orders.records >= 0.9 * last."),
    ] = None,
    allow_credential_change: Annotated[
        bool, typer.Option("--allow-credential-change", help="Resume with a credential other than that of the state.")
    ] = False,
    write_config: WriteConfigOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Write only failures to stderr.")] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Write stderr as one JSON object a line.")] = False,
    debug: DebugOption = False,
) -> None:
    """Read the streams of a Source.

    Records go to DEST, everything else to stderr. With several streams each line on stdout is
    {"stream": "orders", "record": {...}}, with one stream the record itself.
    """
    with command_output(debug=debug, quiet=quiet, as_json=log_json) as output:
        seconds = None if deadline is None else parse_seconds("--deadline", deadline)
        since_bound, until_bound = parse_bound("--since", since), parse_bound("--until", until)
        destination = destination_for(to, folder_format, mode=mode, allow_credential_change=allow_credential_change)
        options: dict[str, Any] = {} if concurrency is None else {"max_concurrency": concurrency}
        opened = open_source(source, config, flags, output, write_config=write_config, **options)
        names = select_names(opened.source, select)
        job = ReadJob(
            opened,
            output,
            names,
            RunScope(
                limit,
                parse_slices(slices, names or [stream.name for stream in opened.source]),
                since_bound,
                until_bound,
                () if refresh is None else select_names(opened.source, refresh),
            ),
            destination,
            StateChoice(state, allow_credential_change=allow_credential_change),
            RunOrigin(opened.loaded.import_path, shown_command(context, opened, output)),
            tuple(require or ()),
            None if deadline is None else (deadline, seconds or 0.0),
        )
        job.check()
        if dry_run:
            job.show_requests()
        else:
            job.run()


@dataclass(frozen=True, slots=True)
class StateChoice:
    """The value of --state, None without one."""

    text: str | None
    allow_credential_change: bool = False

    @property
    def is_kept(self) -> bool:
        return self.text not in (None, _NONE)

    def load(self, auto_path: Path) -> State | None:
        """The state; None if none is kept. Raises StateCorrupt and StateIncompatible."""
        if not self.is_kept:
            return None
        path = auto_path if self.text == _AUTO else Path(self.text or "").expanduser()
        if self.text == _AUTO:
            make_private_folder(path.parent)
        elif not path.parent.is_dir():
            raise ConfigError(f"--state {path}: there is no folder {path.parent}")
        try:
            return State.load(path, allow_credential_change=self.allow_credential_change)
        except OSError as error:
            raise StateCorrupt(f"state: {path} cannot be read: {error.strerror or type(error).__name__}") from error


class ReadCounts:
    """What a run has read so far, for the end of a run that has no report."""

    def __init__(self) -> None:
        self.records: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        """Count the records of a page."""
        if isinstance(event, PageRead):
            self.records[event.stream] = self.records.get(event.stream, 0) + event.records

    def lines(self) -> list[str]:
        """One line a stream."""
        return [f"{name}: {count:,} records were read" for name, count in self.records.items()]


@dataclass(slots=True)
class ReadJob:
    """One run of the command, with its arguments parsed."""

    opened: OpenedSource
    output: CommandOutput
    names: Sequence[str]
    scope: RunScope
    destination: Destination | None
    state: StateChoice
    origin: RunOrigin
    require: tuple[str, ...] = ()
    deadline: tuple[str, float] | None = None
    """As written, and in seconds."""

    @property
    def source(self) -> Source:
        return self.opened.source

    def check(self) -> None:
        """Raises ConfigError for options that contradict each other."""
        if self.destination is not None:
            if self.state.text is not None:
                raise ConfigError(
                    f"--state {self.state.text}: {self.destination.path} keeps its own state", hint="remove --state"
                )
            return
        if self.require:
            raise ConfigError(
                "--require: a read to stdout has no history", hint="name a destination with --to, such as out/"
            )
        if self.scope.refresh:
            raise ConfigError(
                "--refresh: a read to stdout replaces nothing",
                hint="without --state, or with --state none, everything is read from the beginning",
            )
        if self.state.is_kept and self.scope.is_partial:
            raise ConfigError(
                "--state: a run with --limit, --slices, --since or --until moves no state",
                hint="remove --state, or read to a destination with --to",
            )

    def run(self) -> None:
        """Read, and write the summary. Raises what the run raises, and DeadlineReached."""
        counts = ReadCounts()
        self.source.subscribe(counts)
        self.output.outlook = lambda error: self._outlook(error, counts)
        work = self._to_stdout if self.destination is None else self._to_destination
        try:
            with shown_run(self.source, self.output, uses_stdout=self.destination is None):
                report = asyncio.run(self._until_deadline(work))
        except (PartialFailure, ThresholdMissed) as error:
            if isinstance(error.report, RunReport):
                self.output.summary = summary_lines(error.report, error)
            raise
        self.output.note("\n".join(summary_lines(report)))
        if self.output.quiet:
            for name, reason in report.unavailable.items():  # nothing was read of it, although the run is done
                self.output.note(f"{name}: unavailable: {reason}", logging.ERROR)

    def show_requests(self) -> None:
        """Print the first request of each stream."""
        states: dict[str, StreamState] | None = None
        if self.destination is not None:
            ledger = self.destination.new_writer().inspect().ledger
            states = {name: stream.state for name, stream in ledger.streams.items() if name not in self.scope.refresh}
        elif (state := self.state.load(self.opened.state_path)) is not None:
            states = dict(state)
        asyncio.run(show_first_requests(self.source, self.names, self.scope, states, self.output))

    async def _until_deadline(self, work: Callable[[], Awaitable[RunReport]]) -> RunReport:
        if self.deadline is None:
            return await work()
        text, seconds = self.deadline
        with anyio.move_on_after(seconds) as scope:
            return await work()
        assert scope.cancelled_caught
        raise DeadlineReached(f"the deadline of {text} has passed: the run was ended before it was complete")

    async def _to_destination(self) -> RunReport:
        assert self.destination is not None
        scope = self.scope
        return await self.source.extract(
            *self.names,
            to=self.destination,
            limit=scope.limit,
            slices=scope.slices or None,
            since=scope.since,
            until=scope.until,
            refresh=scope.refresh,
            require=self.require,
            event_log=self.origin,
        )

    async def _to_stdout(self) -> RunReport:
        names_streams = len(self.names or list(self.source)) > 1
        writer = LineWriter()
        scope = self.scope

        async def read_state() -> RunReport:
            state = self.state.load(self.opened.state_path)
            handle = self.source.pages(
                *self.names, limit=scope.limit, slices=scope.slices or None, state=state, ack="manual"
            )
            async with handle as pages:
                await write_pages(aiter(pages), writer, names_streams=names_streams)
            return handle.report

        async def read_range() -> RunReport:
            async with self.source:
                scheduler = selected_scheduler(self.source, self.names, scope, {})
                async with scheduler.pages() as pages:
                    await write_pages(aiter(pages), writer, names_streams=names_streams)
                return scheduler.report()

        with redirect_stdout(sys.stderr):  # what hooks print is no record
            return await exit_on_signals(read_range if scope.is_range else read_state)

    def _outlook(self, error: BaseException, counts: ReadCounts) -> Sequence[str]:
        """What is safe, and what the next run will do."""
        if isinstance(error, ThresholdMissed):
            return []
        if not counts.records:
            return ["nothing was written"] if isinstance(error, ConfigError | LocalError) else ["no record was read"]
        lines = [] if isinstance(error, PartialFailure) else counts.lines()
        if self.scope.is_partial:
            return [*lines, "the run was narrowed and moves no state: the next one reads the same again"]
        if self.destination is not None:
            return [*lines, f"what was committed to {self.destination.path} stays; the next run resumes after it"]
        if self.state.is_kept:
            return [*lines, "the state covers what was written to stdout; the next run resumes after it"]
        return [*lines, "no state was kept: the next run reads everything again (--state auto keeps one)"]


def shown_command(context: typer.Context, opened: OpenedSource, output: CommandOutput) -> str:
    """The command as it can be repeated in a shell, without the secrets of `--set`; references to them stay."""
    words = ["asyncstreams", str(context.info_name)]
    for parameter in context.command.params:
        given: Any = context.params.get(parameter.name or "")
        if given is None or given == parameter.default:
            continue
        for value in cast(Sequence[Any], given) if isinstance(given, list | tuple) else [given]:
            text = str(value)
            if parameter.name == "flags":
                key, _, text = text.partition("=")
                text = f"{key}={MASK if text in opened.configuration.secrets else text}"
            option = parameter.opts[0] if parameter.param_type_name == "option" else ""
            words += [option] if value is True else filter(None, [option, output.shown(text)])
    return shlex.join(words)


def parse_slices(text: str | None, names: Sequence[str]) -> dict[str, Any]:
    """The slices of `--slices`, by stream: a list is for the only stream that is read. Raises ConfigError."""
    if text is None:
        return {}
    example = json.dumps({names[0]: [{"id": 7}]})
    try:
        value: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"--slices: is not JSON: {error.msg}, column {error.colno}", hint=f"for example '{example}'"
        ) from None
    is_list = as_array(value) is not None
    by_name: dict[str, Any] | None = {names[0]: value} if is_list and len(names) == 1 else as_object(value)
    if by_name is None or any(as_array(items) is None for items in by_name.values()):
        raise ConfigError(
            "--slices: expected an object with a list of slices for each stream", hint=f"for example '{example}'"
        )
    return by_name
