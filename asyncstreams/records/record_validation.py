"""Transformation, validation and encoding of the records of a page."""

from __future__ import annotations

import inspect
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from .._json import as_object
from ..declaration.stream import Stream
from ..errors import AsyncStreamsError, ConfigError, SchemaError
from ..models import (
    Page,
    PageCheckpoint,
    PrimaryKey,
    QuarantinedRecord,
    Record,
    SchemaViolation,
    Slice,
    key_paths,
    shorten,
)
from ..redaction import displayed
from ..schemas.record_schema import RecordSchema, record_schema
from ..state.stream_selection import StateStore
from .json_lines import EncodedLines, EncodedPage, copy_raw, encode_quarantined, encode_records, encoding_error
from .raw_records import (
    DecodedRecords,
    PageRecords,
    RawReader,
    RawRecords,
    has_unmodified_records,
    reason_to_decode,
)

_MAX_KINDS = 100
_MAX_KINDS_SHOWN = 5
_MAX_KEY_CHARS = 100
_ARRAY_INDEX = re.compile(r"/\d+(?=/|$)")
_log = logging.getLogger("asyncstreams")


class RecordValidator:
    """Transforms and validates the records of one stream during one run, and counts schema violations.

    Records are transformed in place.
    """

    def __init__(self, stream: Stream, schema: RecordSchema | None) -> None:
        self._stream = stream
        self.json_schema: Mapping[str, Any] | None = None if schema is None else schema.json
        """The schema of the records, as far as the run needs one."""
        self._schema = None if stream.resolved.validation == "off" else schema
        self._transform = _page_transform(stream, schema)
        self._records = 0
        self._invalid = 0
        self._kinds: Counter[tuple[str, str]] = Counter()

    @property
    def has_schema(self) -> bool:
        """Whether records are validated."""
        return self._schema is not None

    def validate_page(self, records: list[Record]) -> tuple[list[Record], tuple[QuarantinedRecord, ...]]:
        """The records to deliver and the quarantined ones. Raises SchemaError."""
        if self._transform is not None:
            self._transform(records)
        if self._schema is None:
            return records, ()
        self._records += len(records)
        if self._schema.all_valid(records):
            return records, ()
        return self._partition(records, self._schema)

    def log_summary(self) -> None:
        """Log a warning with the number of invalid records, at the end of a run."""
        if self._invalid and self._stream.resolved.validation != "fail":
            what = "were quarantined" if self._stream.resolved.validation == "quarantine" else "do not match the schema"
            _log.warning(
                "%s: %d of %d records %s: %s",
                self._stream.name,
                self._invalid,
                self._records,
                what,
                self._most_frequent(),
            )

    def _partition(
        self, records: list[Record], schema: RecordSchema
    ) -> tuple[list[Record], tuple[QuarantinedRecord, ...]]:
        valid: list[Record] = []
        quarantined: list[QuarantinedRecord] = []
        for number, record in enumerate(records):
            if schema.is_valid(record):
                valid.append(record)
                continue
            problems = schema.find_violations(record)
            key = _key_of(self._stream.resolved.primary_key, record)
            self._count_violations(problems, _record_label(key, number))
            if self._stream.resolved.validation == "fail":
                more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
                label = _record_label(key, number)
                message = f"sent a record that does not match the schema: {label}: {problems[0]}{more}"
                raise _schema_error(message, key, problems[0])
            if self._stream.resolved.validation == "report":
                continue
            quarantined.append(QuarantinedRecord(record, tuple(problems)))
            if self._invalid > self._stream.resolved.max_quarantined:
                limit = f"{self._stream.resolved.max_quarantined:,} records (max_quarantined)"
                message = f"sent more than {limit} that do not match the schema: {self._most_frequent()}"
                raise _schema_error(message, key, problems[0])
        return (valid, tuple(quarantined)) if self._stream.resolved.validation == "quarantine" else (records, ())

    def _count_violations(self, problems: list[SchemaViolation], label: str) -> None:
        """Count an invalid record, and log the first violation of each place and keyword."""
        self._invalid += 1
        for kind, problem in {(_place(problem), problem.keyword): problem for problem in problems}.items():
            if kind not in self._kinds:
                if len(self._kinds) >= _MAX_KINDS:
                    continue
                if self._stream.resolved.validation != "fail":
                    _log.warning("%s: %s does not match the schema: %s", self._stream.name, label, problem)
            self._kinds[kind] += 1

    def _most_frequent(self) -> str:
        kinds = self._kinds.most_common(_MAX_KINDS_SHOWN)
        shown = ", ".join(f"{place or 'the record'} {keyword} ({count:,})" for (place, keyword), count in kinds)
        return shown + (", ..." if len(self._kinds) > _MAX_KINDS_SHOWN else "")


class PageBuilder:
    """Builds the pages of one stream from its records: validated, and encoded if they only go into files.

    `raw_reader` extracts records that need not be decoded at all. If those of a file must be, `not_raw_because` says
    why.
    """

    def __init__(self, stream: Stream, validator: RecordValidator, *, encodes: bool) -> None:
        self._name, self._validator, self._encodes = stream.name, validator, encodes
        reason = reason_to_decode(stream, has_schema=validator.has_schema) if encodes else ""
        self.raw_reader = RawReader(stream) if reason is None else None
        self.not_raw_because = reason or ""
        self._is_json = has_unmodified_records(stream)

    def build(
        self,
        stream_slice: Slice,
        number: int,
        records: PageRecords,
        *,
        is_last: bool,
        checkpoint: PageCheckpoint | None,
    ) -> Page:
        """The page with these records. Raises SchemaError and `encoding_error`."""
        if isinstance(records, RawRecords):
            lines, quarantined_lines = copy_raw(records), EncodedLines()
        else:
            records, quarantined = self._validator.validate_page(records)
            if not self._encodes:
                return Page(self._name, stream_slice, number, records, is_last, quarantined, checkpoint)
            lines, quarantined_lines = self._encode(records, quarantined)
        return EncodedPage(
            self._name,
            stream_slice,
            number,
            [],
            is_last,
            checkpoint=checkpoint,
            lines=lines,
            quarantined_lines=quarantined_lines,
        )

    def _encode(
        self, records: DecodedRecords, quarantined: tuple[QuarantinedRecord, ...]
    ) -> tuple[EncodedLines, EncodedLines]:
        try:
            lines = encode_records(records, is_json=self._is_json)
            return lines, encode_quarantined(quarantined) if quarantined else EncodedLines()
        except TypeError as error:
            failure = encoding_error(error, [*records, *(entry.record for entry in quarantined)])
        raise failure


async def create_validator(stream: Stream, state_store: StateStore | None = None) -> RecordValidator:
    """The validator of a stream for one run. It loads the schema if validation, transformer or `state_store` need it.

    The store checks that its state belongs to the stream, and receives the schema. Raises ConfigError and
    StateIncompatible.
    """
    if state_store is not None:
        state_store.check_stream(stream)
    transforms = stream.resolved.transformer is not None and stream.resolved.transformer.is_active
    is_needed = state_store is not None and state_store.needs_schema
    schema = (
        None if stream.resolved.validation == "off" and not transforms and not is_needed else await load_schema(stream)
    )
    if schema is None and transforms:
        raise ConfigError(
            f"{type(stream).__name__}.transformer: the stream has no schema",
            hint=f"add schemas/{stream.name}.json next to the stream's module, or define get_json_schema(self)",
        ).locate(stream=stream.name)
    if state_store is not None:
        state_store.describe_stream(stream, None if schema is None else schema.json)
    return RecordValidator(stream, schema)


async def load_schema(stream: Stream) -> RecordSchema | None:
    """The compiled result of the stream's `get_json_schema`, or None. Raises ConfigError for an invalid schema."""
    try:
        schema: Any = stream.get_json_schema()
        if inspect.isawaitable(schema):
            schema = await schema
        return None if schema is None else record_schema(schema, "the schema")
    except AsyncStreamsError as error:
        error.locate(stream=stream.name)
        raise
    except Exception as error:
        error.add_note(f"asyncstreams: in get_json_schema of stream {stream.name!r}")
        raise


def _page_transform(stream: Stream, schema: RecordSchema | None) -> Callable[[list[Record]], None] | None:
    if schema is None or stream.resolved.transformer is None or not stream.resolved.transformer.is_active:
        return None
    return stream.resolved.transformer.compile(schema.json)


def _place(problem: SchemaViolation) -> str:
    """The pointer with array indexes replaced by `*`."""
    return shorten(_ARRAY_INDEX.sub("/*", problem.pointer))


def _key_of(primary_key: PrimaryKey, record: Record) -> Any:
    """The primary key of a record: a value, or a mapping if it has several fields; None without a primary key."""
    paths = key_paths(primary_key)
    if len(paths) == 1:
        return _value_at(record, paths[0])
    return {".".join(path): _value_at(record, path) for path in paths} or None


def _value_at(record: Record, path: list[str]) -> Any:
    value: Any = record
    for name in path:
        value = (as_object(value) or {}).get(name)
    return value


def _record_label(key: Any, number: int) -> str:
    return f"record {number} of its page" if key is None else f"record {shorten(displayed(key), _MAX_KEY_CHARS)}"


def _schema_error(message: str, key: Any, problem: SchemaViolation) -> SchemaError:
    return SchemaError(
        message,
        key=key,
        pointer=problem.pointer,
        keyword=problem.keyword,
        hint='fix the schema, or set validation to "quarantine" (withhold such records) or "report" (only count them)',
    )
