"""The commands that inspect a Source: `check`, `discover`, `spec`, `preview` and `schema infer`."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias, cast

import typer

from .._json import as_array
from ..declaration.catalog import StreamDescription
from ..errors import ConfigError, OutputWriteError, UnexpectedContent
from ..events import Event, RequestFinished
from ..launch import ExitCode, handled_log
from ..models import CursorField, Record, key_paths
from ..records.record_validation import load_schema
from ..redaction import MASK, safe_url
from ..schemas.schema_files import NAME_MAP_KEYWORDS, schema_path
from ..schemas.schema_inference import SchemaDifference, SchemaInference, describe_columns, find_differences
from ..source import Source
from ..streams.http_stream import HttpStream, bind
from ..visible_text import escape_controls
from .failures import CommandOutput, command_output
from .log_lines import CommandLog
from .opened_source import open_source, select_names
from .options import ConfigOption, DebugOption, SetOption, SourceArgument
from .record_table import record_table
from .source_loader import load_source_class
from .spec_fields import Path as FieldPath
from .spec_fields import SpecFields
from .stdout_tables import Cell, StyledText, TablePrinter, shortened, to_json_text

StreamArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="STREAM", help="Name of a stream.", show_default=False)
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SelectOption: TypeAlias = Annotated[
    str | None, typer.Option("--select", "-s", metavar="A,B", help="Streams. Default: all.")
]
_MAX_SPEC_DEPTH = 8
_MAX_REQUESTS = 50
_INSTALLED = {"site-packages", "dist-packages"}


def add_inspection(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("check")(check)
    app.command("discover")(discover)
    app.command("spec")(show_spec)
    app.command("preview")(preview)
    schema = typer.Typer(help="Schemas of streams.", no_args_is_help=True)
    schema.command("infer")(infer_schema)
    app.add_typer(schema, name="schema")


def check(
    source: SourceArgument,
    select: SelectOption = None,
    config: ConfigOption = None,
    flags: SetOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check which streams can be read, with one request for each.

    The exit code is 0 if all of them can be read, and 1 otherwise.
    """
    with command_output(debug=debug) as output, _logged(output):
        opened = open_source(source, config, flags, output).source
        report = asyncio.run(opened.check(*select_names(opened, select)))
        printer = TablePrinter(output)
        if as_json:
            fields = ("stream", "available", "reason", "has_schema", "failed")
            printer.json([{name: getattr(stream, name) for name in fields} for stream in report])
        else:
            rows: list[list[Cell]] = []
            for stream in report:
                status = StyledText("available", "green") if stream.available else StyledText("unavailable", "yellow")
                status = StyledText("failed", "red") if stream.failed else status
                no_schema = "without a schema, records are not validated" if stream.has_schema is False else ""
                rows.append([stream.stream, status, stream.reason or no_schema])
            printer.table(["stream", "status", "details"], rows)
        if not report:
            raise typer.Exit(ExitCode.FAILED)


def discover(
    source: SourceArgument,
    config: ConfigOption = None,
    flags: SetOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the streams with their primary keys, cursors and parents; with --json, their schemas too."""
    with command_output(debug=debug) as output, _logged(output):
        opened = open_source(source, config, flags, output).source
        descriptions = asyncio.run(opened.discover())
        printer = TablePrinter(output)
        if as_json:
            printer.json([_described_json(opened[name], described) for name, described in descriptions.items()])
            return
        rows: list[list[Cell]] = []
        for name, described in descriptions.items():
            schema, stream = described.json_schema, opened[name]
            keys = ", ".join(".".join(path) for path in described.primary_key)
            cursor = ".".join(_path_of(stream.resolved.cursor_field))
            parents = ", ".join(parent.name for parent in stream.declared_parents)
            rows.append(
                [name, keys, cursor, parents, "no schema" if schema is None else f"{len(describe_columns(schema)):,}"]
            )
        printer.table(["stream", "primary key", "cursor", "parents", "columns"], rows)


def show_spec(source: SourceArgument, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Show the keys of the configuration; with --json, its JSON schema."""
    with command_output(debug=debug) as output:
        loaded = load_source_class(source)
        printer = TablePrinter(output)
        if as_json:
            printer.json({} if loaded.spec is None else loaded.spec)
        elif loaded.spec is None:
            output.note(f"{loaded.name} has no spec: its configuration is not validated")
        else:
            columns = ["key", "type", "required", "default", "secret", "description"]
            printer.table(columns, list(_spec_rows(loaded.spec)))


def preview(
    source: SourceArgument,
    stream: StreamArgument,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Number of records.", min=1, max=1_000)] = 5,
    config: ConfigOption = None,
    flags: SetOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Read a few records of a stream, and show them with the requests that were sent for them.

    Below them: where the records differ from the declared schema.
    """
    with command_output(debug=debug) as output, _logged(output):
        opened = open_source(source, config, flags, output).source
        printer = TablePrinter(output)
        sample = StreamSample(opened[stream])
        failure: Exception | None = None
        try:
            asyncio.run(sample.read(opened, limit))
        except Exception as error:
            failure = error  # raised once the requests are shown, which may explain it
        if as_json:
            printer.json(_preview_json(sample))
        else:
            _print_preview(printer, sample, is_complete=failure is None)
        if failure is not None:
            raise failure


def infer_schema(
    source: SourceArgument,
    stream: StreamArgument,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Number of records to read.", min=1)] = 1_000,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="File to write, or - for stdout. Default: schemas/<name>.json beside the module of the stream.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    config: ConfigOption = None,
    flags: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Infer the JSON schema of a stream from its records, and write it where the stream finds it.

    Every record that was read is valid for it. A type such as null is in it only if a record has it.
    """
    with command_output(debug=debug) as output, _logged(output):
        opened = open_source(source, config, flags, output).source
        target = _schema_target(opened[stream], out)
        if target is not None and target.exists() and not force:
            raise ConfigError(f"{target} exists", hint="--force replaces it, and --out writes to another file")
        sample = StreamSample(opened[stream], keeps_records=False)
        asyncio.run(sample.read(opened, limit))
        inference = sample.inference
        if not inference.records:
            raise UnexpectedContent(f"{stream}: no record was read, so there is nothing to infer a schema from")
        text = f"{to_json_text(inference.to_json())}\n"
        if target is None:
            TablePrinter(output).text(text)
        else:
            _write_schema(target, text, replaces=force)
        columns = len(describe_columns(inference.to_json()))
        written = "" if target is None else f" was written to {target}"
        output.note(f"{stream}: the schema of {inference.records:,} records, with {columns:,} columns{written}")
        if not inference.is_complete:
            output.warn(f"{stream}: the records are too large or nested too deeply to be described completely")


@dataclass(slots=True)
class StreamSample:
    """The first records of a stream, the requests that they took, and their schemas.

    The declared schema is not enforced, so that records that do not match it can be seen.
    """

    stream: HttpStream
    keeps_records: bool = True
    records: list[Record] = field(default_factory=list[Record])
    requests: list[RequestFinished] = field(default_factory=list[RequestFinished])
    inference: SchemaInference = field(default_factory=SchemaInference)
    declared: Mapping[str, Any] | None = None

    async def read(self, source: Source, limit: int) -> None:
        """Read the records. Raises what reading raises; what was read before stays."""
        name = self.stream.name
        with suppress(AttributeError):  # the class has a property: its records are validated
            self.stream.validation = "report"
        unsubscribe = source.subscribe(self._observe)
        try:
            async with source:
                async with source.pages(name, limit=limit) as pages:
                    async for page in pages:
                        found = [*page.records, *(item.record for item in page.quarantined)]
                        self.inference.add(found)
                        if self.keeps_records:
                            self.records += found
                if self.keeps_records:
                    (bound,) = bind([self.stream], self.stream.own_reader.choose(name))
                    schema = await load_schema(bound)
                    self.declared = None if schema is None else schema.json
        finally:
            unsubscribe()

    @property
    def differences(self) -> Sequence[SchemaDifference]:
        """Where the records differ from the declared schema; empty without one, and without records."""
        if self.declared is None or not self.records:
            return ()
        return find_differences(self.declared, self.inference.to_json())

    def _observe(self, event: Event) -> None:
        if isinstance(event, RequestFinished):
            self.requests.append(event)


def _described_json(stream: HttpStream, described: StreamDescription) -> dict[str, Any]:
    return {
        "name": described.name,
        "primary_key": described.primary_key,
        "cursor_field": _path_of(stream.resolved.cursor_field),
        "parents": [parent.name for parent in stream.declared_parents],
        "json_schema": described.json_schema,
    }


def _print_preview(printer: TablePrinter, sample: StreamSample, *, is_complete: bool) -> None:
    settings = sample.stream.resolved
    first = [path[0] for path in key_paths(settings.primary_key)] + _path_of(settings.cursor_field)[:1]
    if sample.records:
        table = record_table(sample.records, first, printer.width)
        printer.title(_counted(len(sample.records), "record"))
        printer.table(table.columns, table.rows)
        if table.left_out:
            names = shortened(escape_controls(", ".join(table.left_out)), 200)
            printer.line(f"{len(table.left_out):,} columns do not fit: {names}; --json shows them")
        printer.line()
    elif is_complete:
        printer.line("the stream has no records")
        printer.line()
    if sample.requests:
        printer.title(_counted(len(sample.requests), "request"))
        printer.table(["stream", "request", "result", "ms"], list(map(_request_row, sample.requests[:_MAX_REQUESTS])))
        if (more := len(sample.requests) - _MAX_REQUESTS) > 0:
            printer.line(f"and {more:,} more")
    if sample.records:
        printer.line()
        _print_differences(printer, sample)


def _print_differences(printer: TablePrinter, sample: StreamSample) -> None:
    count = _counted(len(sample.records), "record")
    if sample.declared is None:
        printer.title(f"no schema is declared; inferred from {count}")
        printer.table(["column", "type"], list(describe_columns(sample.inference.to_json()).items()))
    elif differences := sample.differences:
        printer.title(f"the declared schema differs from {count}")
        rows = [[item.path, item.declared or "not declared", item.inferred or "not seen"] for item in differences]
        printer.table(["column", "declared", "inferred"], rows)
    else:
        printer.line(f"the declared schema fits the {count}")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _request_row(request: RequestFinished) -> list[Cell]:
    result = str(request.status or request.error or "no response")
    is_failed = request.status is None or request.status >= 400 or bool(request.error)
    if request.is_refused:
        result += ", refused for its rate"
    elif request.status is not None and request.error:
        result += f", {request.error}"
    if request.attempt > 1:
        result += f", attempt {request.attempt}"
    milliseconds = (request.server_s + request.body_s) * 1_000
    sent = f"{request.method} {safe_url(request.url)}"
    return [request.stream, sent, StyledText(result, "red" if is_failed else "green"), f"{milliseconds:,.0f}"]


def _preview_json(sample: StreamSample) -> dict[str, Any]:
    requests = [
        {
            "stream": request.stream,
            "method": request.method,
            "url": safe_url(request.url),
            "attempt": request.attempt,
            "status": request.status,
            "error": request.error,
            "seconds": round(request.server_s + request.body_s, 6),
        }
        for request in sample.requests
    ]
    return {
        "stream": sample.stream.name,
        "records": sample.records,
        "requests": requests,
        "declared_schema": sample.declared,
        "inferred_schema": sample.inference.to_json() if sample.records else None,
        "differences": [difference._asdict() for difference in sample.differences],
    }


def _spec_rows(spec: Mapping[str, Any]) -> Iterator[list[Cell]]:
    """One row for each key; the keys of objects are joined by dots, as `--set` takes them."""
    fields, unconditional = SpecFields(spec), SpecFields(_without_alternatives(spec))
    paths: list[FieldPath] = [()]
    while paths:
        path = paths.pop()
        if path:
            yield _spec_row(fields, unconditional, path)
        if len(path) < _MAX_SPEC_DEPTH:
            paths += [(*path, name) for name in reversed(fields.names_at(path, None))]


def _spec_row(fields: SpecFields, unconditional: SpecFields, path: FieldPath) -> list[Cell]:
    *parent, name = path
    schemas = fields.schemas_at(path, None)
    need = "yes" if name in _required(unconditional, parent) else "no"
    need = "depends" if need == "no" and name in _required(fields, parent) else need
    nested: Any = None
    for step in reversed(path):
        nested = {step: nested}
    is_secret = any(secret for _, _, secret in fields.leaves(nested))
    default = next((to_json_text(schema["default"], indent=None) for schema in schemas if "default" in schema), "")
    return [
        ".".join(map(str, path)),
        " or ".join(sorted(fields.types_at(path, None))) or "any",
        need,
        MASK if is_secret and default else default,
        "secret" if is_secret else "",
        next((str(schema[key]) for key in ("description", "title") for schema in schemas if key in schema), "")
        or _choices(schemas),
    ]


def _choices(schemas: Sequence[Mapping[str, Any]]) -> str:
    """The values that a key may have, if the spec lists them."""
    values = [value for schema in schemas for value in as_array(schema.get("enum")) or ()]
    values += [schema["const"] for schema in schemas if "const" in schema]
    return " or ".join(dict.fromkeys(to_json_text(value, indent=None) for value in values))


def _required(fields: SpecFields, path: Sequence[str | int]) -> set[str]:
    """The keys that are required in the object at a path."""
    found: set[str] = set()
    for schema in fields.schemas_at(tuple(path), None):
        found |= set(as_array(schema.get("required")) or ())
    return found


def _without_alternatives(schema: Any, *, is_name_map: bool = False) -> Any:
    """The part of a schema that does not depend on other values."""
    if (items := as_array(schema)) is not None:
        return [_without_alternatives(item) for item in items]
    if not isinstance(schema, Mapping):
        return schema
    fields = cast(Mapping[str, Any], schema)
    return {
        key: _without_alternatives(value, is_name_map=not is_name_map and key in NAME_MAP_KEYWORDS)
        for key, value in fields.items()
        if is_name_map or key not in ("oneOf", "anyOf", "then", "else")
    }


def _path_of(field: CursorField) -> list[str]:
    return [field] if isinstance(field, str) else list(field or ())


def _schema_target(stream: HttpStream, out: Path | None) -> Path | None:
    """The file to write; None for stdout. Raises ConfigError."""
    if out is not None:
        return None if str(out) == "-" else out.expanduser()
    target = schema_path(type(stream), stream.name)
    if _INSTALLED & set(target.parts):
        raise ConfigError(
            f"{target}: the module of {type(stream).__name__} is installed, and not part of your code",
            hint="name a file with --out",
        )
    return target


def _write_schema(path: Path, text: str, *, replaces: bool) -> None:
    """Write a file atomically; without `replaces` it must not exist. Raises ConfigError and OutputWriteError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(text, "utf-8")
            if replaces:
                partial.replace(path)
            else:
                os.link(partial, path)  # fails if another program has created the file meanwhile
        finally:
            partial.unlink(missing_ok=True)
    except FileExistsError:
        raise ConfigError(f"{path} exists", hint="--force replaces it, and --out writes to another file") from None
    except OSError as error:
        raise OutputWriteError(
            f"{path} cannot be written: {error.strerror or error}",
            hint="name another file with --out, or - for stdout",
        ) from error


@contextmanager
def _logged(output: CommandOutput) -> Generator[None]:
    """A block whose warnings are shown on stderr; with --debug the whole log."""
    level = logging.DEBUG if output.debug else logging.WARNING
    with handled_log(CommandLog(output, has_times=False), level):
        yield
