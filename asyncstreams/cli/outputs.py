"""The commands for what runs have left: `state`, `runs` and `report`."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from .._json import decode
from ..destinations.base import Destination
from ..destinations.output_state import OutputState
from ..errors import ConfigError
from ..event_log.run_record import RunRecord
from ..state.state_file import State
from ..storage.filesystem import FileSystem, write_errors, write_file
from .existing_output import check_exists, is_state_file, open_destination, open_output
from .failures import CommandOutput, command_output
from .options import ConfigOption, DebugOption, SetOption
from .state_exchange import StateForm, export_text, import_into_destination, import_into_file
from .stdout_tables import Cell, StyledText, TablePrinter

DestinationArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="DEST", help="A folder, a .duckdb or .sqlite file, or a file of --state.", show_default=False
    ),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_OUTCOME_STYLES = {"complete": "green", "partial": "yellow", "interrupted": "yellow", "failed": "red"}
_MAX_RUNS = 100


def add_outputs(app: typer.Typer) -> None:
    """Add the commands to the application."""
    state = typer.Typer(help="What an output has read: show it, forget it, move it.", no_args_is_help=True)
    state.command("show")(show_state)
    state.command("reset")(reset_state)
    state.command("export")(export_state)
    state.command("import")(import_state)
    app.add_typer(state, name="state")
    app.command("runs")(show_runs)
    app.command("report")(report)


def show_state(dest: DestinationArgument, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Show the streams of an output: rows, how far they have been read, and the last run."""
    with command_output(debug=debug) as output:
        found = open_output(dest)
        printer = TablePrinter(output)
        if isinstance(found, State):
            streams = _streams_of_file(found)
            if as_json:
                printer.json({"path": dest, "streams": streams})
            elif streams:
                rows = [
                    [name, _shown(stream["cursor"]), f"{stream['partitions']:,}"] for name, stream in streams.items()
                ]
                printer.table(["stream", "read up to", "partitions"], rows)
        else:
            held = asyncio.run(found.state())
            streams = {name: _stream_json(held, name) for name in held}
            if as_json:
                printer.json(_output_json(held, streams))
            elif streams:
                columns = ["stream", "rows", "status", "read up to", "partitions", "last run"]
                printer.table(columns, [_stream_row(held, name) for name in held])
        if not streams:
            output.note(f"{dest} holds no stream")


def reset_state(
    dest: DestinationArgument,
    streams: Annotated[list[str], typer.Argument(metavar="STREAM", help="Streams to reset.", show_default=False)],
    drop: Annotated[bool, typer.Option("--drop", help="Remove their rows at once.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    debug: DebugOption = False,
) -> None:
    """Forget what has been read of streams, so that the next run reads them from the beginning.

    Their rows stay until that run has replaced them; with --drop they are removed at once.
    """
    with command_output(debug=debug) as output:
        found = open_output(dest)
        names = list(dict.fromkeys(streams))
        rows = {} if isinstance(found, State) else _rows_of(found, names)
        if isinstance(found, State) and drop:
            raise ConfigError(f"--drop: {dest} is a file with a state, which has no rows", hint="leave it out")
        what = f"{', '.join(names)} of {dest}"
        count = sum(rows.values())
        _confirm(
            f"Remove {count:,} rows and forget what was read of {what}?"
            if drop
            else f"Forget what was read of {what}?",
            output,
            yes=yes,
        )
        if isinstance(found, State):
            found.forget(*names)
            asyncio.run(found.save())
        else:
            asyncio.run(found.reset(*names, drop=drop))
        for name in names:
            held = f": its {rows[name]:,} rows stay until the next run has replaced them" if rows.get(name) else ""
            held = f": its {rows[name]:,} rows were removed" if drop else held
            output.note(f"{name} was reset{held}")


def export_state(
    dest: DestinationArgument,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A new file. Default: stdout.", show_default=False)
    ] = None,
    form: Annotated[
        StateForm,
        typer.Option("--format", help="state: lossless, as read --state FILE keeps it; airbyte: its messages."),
    ] = "state",
    debug: DebugOption = False,
) -> None:
    """Export what an output has read, for read --state FILE, for another output, or for Airbyte."""
    with command_output(debug=debug) as output:
        text, left_out = export_text(open_output(dest), form)
        for name, reason in left_out.items():
            output.warn(f"{name} is left out: {reason}")
        if out is None:
            TablePrinter(output).text(text)
            return
        path = out.expanduser()
        if path.exists():
            raise ConfigError(f"{path} exists", hint="name a new file with --out")
        with write_errors(path, len(text)):
            write_file(FileSystem(), path, text.encode(), synced=True)
        output.note(f"the state of {dest} was written to {path}")


def import_state(
    dest: Annotated[
        str,
        typer.Argument(
            metavar="DEST", help="An output, which may be new, or a new file of --state.", show_default=False
        ),
    ],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Of state export, read --state or Airbyte.", show_default=False)
    ],
    source: Annotated[
        str | None,
        typer.Option("--source", metavar="SOURCE", help="The Source, to convert a state of Airbyte for an output."),
    ] = None,
    config: ConfigOption = None,
    flags: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Begin an output where another system has stopped: the next run writes only what comes after it.

    DEST must have neither rows nor a state of the streams: its state always describes the rows that it has.
    """
    with command_output(debug=debug) as output:
        path = Path(dest).expanduser()
        if is_state_file(path):
            names = import_into_file(path, file.expanduser())
        else:
            names = import_into_destination(dest, file.expanduser(), source, config, flags, output)
        output.note(f"{dest}: the next run goes on where {file} ends, with {', '.join(names)}")


def show_runs(
    dest: DestinationArgument,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Number of runs.", min=1, max=_MAX_RUNS)] = 20,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the last runs into an output, the newest first."""
    with command_output(debug=debug) as output:
        records = _records_of(open_destination(dest), limit)
        printer = TablePrinter(output)
        if as_json:
            printer.json([_run_json(record) for record in records])
        elif records:
            columns = ["run", "began", "duration", "outcome", "records", "verdict"]
            printer.table(columns, list(map(_run_row, records)))
        else:
            output.note(f"{dest} has no record of a run")


def report(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="An output, for its last run, or the file of a record.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="HTML file, or - for stdout. Default: report-<run>.html.",
            show_default=False,
        ),
    ] = None,
    run_id: Annotated[
        str | None, typer.Option("--run", metavar="ID", help="Id of a run; the command runs lists them.")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what a run did and what limited it, as one HTML page.

    Without the extra "report" it is shown as tables.
    """
    with command_output(debug=debug) as output:
        record = _find_record(run, run_id)
        printer = TablePrinter(output)
        if as_json:
            printer.json(decode(record.to_bytes()))
            return
        rendering = import_module("..observability.report", __package__)
        missing = [name for name in ("jinja2", "plotly") if find_spec(name) is None]
        if missing and out is None:
            rendering.print_tables(record, printer.console)
            output.note('for the page with charts: pip install "asyncstreams[report]"')
            return
        if missing:
            raise ConfigError("--out: the page requires jinja2 and plotly", hint='pip install "asyncstreams[report]"')
        page: str = rendering.render_html(record)
        if out is not None and str(out) == "-":
            printer.text(page)
            return
        path = Path(f"report-{_file_name(record.id)}.html") if out is None else out.expanduser()
        _write_page(path, page)
        output.note(f"{record.verdict or record.outcome}\nthe report was written to {path}")


def _streams_of_file(state: State) -> dict[str, dict[str, Any]]:
    """The streams of a file with a state, also those that are still in the form of Airbyte."""
    payload = state.to_json()
    found = {name: {"cursor": None, "partitions": 0} for name in payload.get("airbyte", {})}
    for name, stored in payload["streams"].items():
        partitions = sum(1 for item in stored["partitions"] if "partition" in item)
        found[name] = {"cursor": state[name].frontier if name in state else None, "partitions": partitions}
    return found


def _output_json(held: OutputState, streams: Mapping[str, Any]) -> dict[str, Any]:
    last = held.last_run
    run = (
        None if last is None else {"began_at": last.began_at, "ended_at": last.ended_at, "streams": list(last.streams)}
    )
    return {"path": str(held.path), "last_run": run and _plain(run), "streams": streams}


def _stream_json(held: OutputState, name: str) -> dict[str, Any]:
    stream = held[name]
    partitions = [
        {"partition": dict(item.partition), "cursor": item.cursor, "intervals": [list(pair) for pair in item.intervals]}
        for item in stream.partitions
    ]
    fields = {name: getattr(stream, name) for name in ("rows", "status", "mode", "cursor", "last_run", "last_complete")}
    return _plain({**fields, "partitions": partitions})


def _stream_row(held: OutputState, name: str) -> list[Cell]:
    stream = held[name]
    last_run = "" if stream.last_run is None else f"{stream.last_run:%Y-%m-%d %H:%M} UTC"
    status = StyledText(stream.status, "green" if stream.status == "complete" else "yellow")
    return [name, f"{stream.rows:,}", status, _shown(stream.cursor), f"{len(stream.partitions):,}", last_run]


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with times as text in ISO 8601."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in fields.items()}


def _shown(value: object) -> str:
    return "" if value is None else str(value)


def _rows_of(destination: Destination, names: list[str]) -> dict[str, int]:
    """The rows of these streams. Raises ConfigError for one that the output does not have."""
    contents = destination.new_writer().inspect()
    held = sorted(contents.ledger.streams)
    for name in names:
        if name not in held:
            hint = f"its streams: {', '.join(held)}" if held else None
            raise ConfigError(f"{destination.path}: has no stream {name!r}", hint=hint)
    return {name: contents.rows.get(name, 0) for name in names}


def _confirm(question: str, output: CommandOutput, *, yes: bool) -> None:
    """Ask on a terminal. Raises ConfigError without one, and typer.Exit for any answer other than yes."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigError("state reset: there is no terminal to ask on", hint="--yes resets without a question")
    if not typer.confirm(output.shown(question), err=True):
        output.note("nothing was changed")
        raise typer.Exit(1)


def _records_of(destination: Destination, limit: int) -> tuple[RunRecord, ...]:
    return asyncio.run(destination.runs(limit=limit))


def _find_record(run: str, run_id: str | None) -> RunRecord:
    """The record that RUN and --run name. Raises ConfigError and StateCorrupt."""
    path = check_exists(run)
    if path.is_file() and path.suffix.lower() == ".json":
        if run_id is not None:
            raise ConfigError(f"--run: {path} is the record of one run", hint="leave it out")
        return RunRecord.from_bytes(path.read_bytes(), str(path))
    records = _records_of(open_destination(run), 1 if run_id is None else _MAX_RUNS)
    if not records:
        raise ConfigError(
            f"{path}: has no record of a run", hint="`asyncstreams read --to` keeps one, unless event_log=False"
        )
    if run_id is None:
        return records[0]
    found = [record for record in records if record.id == run_id]
    if not found:
        newest = ", ".join(record.id for record in records[:5])
        raise ConfigError(f"{path}: has no run {run_id!r}", hint=f"its newest runs are {newest}")
    return found[0]


def _run_json(record: RunRecord) -> dict[str, Any]:
    names = ("id", "source", "began_at", "seconds", "outcome", "error", "verdict")
    streams = {stream.name: stream.records for stream in record.streams}
    return {**{name: getattr(record, name) for name in names}, "records": streams}


def _run_row(record: RunRecord) -> list[Cell]:
    style = _OUTCOME_STYLES.get(record.outcome, "")
    count = sum(stream.records for stream in record.streams)
    return [
        record.id,
        _shown_time(record.began_at),
        _shown_duration(record.seconds),
        StyledText(record.outcome, style),
        f"{count:,}",
        record.verdict or record.error.partition("\n")[0],
    ]


def _shown_time(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return text


def _shown_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"


def _file_name(run_id: str) -> str:
    return re.sub(r"[^\w-]+", "_", run_id, flags=re.ASCII)[:80]


def _write_page(path: Path, page: str) -> None:
    """Replace the file of an earlier report. Raises OutputWriteError."""
    with write_errors(path):
        path.write_text(page, "utf-8")
