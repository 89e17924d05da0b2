"""What becomes of the records of a page: transformed, then held against their schema."""

from __future__ import annotations

import inspect
import logging
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from .._json import as_object
from ..errors import AsyncStreamsError, ConfigError, SchemaError
from ..models import PrimaryKey, QuarantinedRecord, Record, SchemaViolation, key_paths, shortened
from ..protocols import Stream
from ..schemas.record_schema import RecordSchema, record_schema
from ..state.stream_selection import StateStore

_MOST_KINDS = 100
_SHOWN_KINDS = 5
_LONGEST_KEY = 100
_INDEX = re.compile(r"/\d+(?=/|$)")
_log = logging.getLogger("asyncstreams")


class RecordValidator:
    """The schema of one stream, for one reading of it, and how many records did not fit.

    Records are transformed in place.
    """

    def __init__(self, stream: Stream, schema: RecordSchema | None) -> None:
        self._stream = stream
        self._schema = None if stream.validation == "off" else schema
        self._transform = _transform(stream, schema)
        self._records = 0
        self._misfits = 0
        self._kinds: Counter[tuple[str, str]] = Counter()

    @property
    def has_schema(self) -> bool:
        """Whether records are held against anything."""
        return self._schema is not None

    def page(self, records: list[Record]) -> tuple[list[Record], tuple[QuarantinedRecord, ...]]:
        """The records to hand over, and those that are kept back. Raises SchemaError."""
        if self._transform is not None:
            self._transform(records)
        if self._schema is None:
            return records, ()
        self._records += len(records)
        if self._schema.fits(records):
            return records, ()
        return self._sorted(records, self._schema)

    def tell(self) -> None:
        """Warn of how many did not fit, at the end of a reading."""
        if self._misfits and self._stream.validation != "fail":
            what = "were quarantined" if self._stream.validation == "quarantine" else "do not fit the schema"
            _log.warning(
                "%s: %d of %d records %s: %s",
                self._stream.name,
                self._misfits,
                self._records,
                what,
                self._most_frequent(),
            )

    def _sorted(
        self, records: list[Record], schema: RecordSchema
    ) -> tuple[list[Record], tuple[QuarantinedRecord, ...]]:
        fitting: list[Record] = []
        quarantined: list[QuarantinedRecord] = []
        for number, record in enumerate(records):
            if schema.fits_one(record):
                fitting.append(record)
                continue
            problems = schema.problems(record)
            key = _key(self._stream.primary_key, record)
            self._count(problems, _named(key, number))
            if self._stream.validation == "fail":
                more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
                told = f"sent a record that does not fit the schema: {_named(key, number)}: {problems[0]}{more}"
                raise _error(told, key, problems[0])
            if self._stream.validation == "report":
                continue
            quarantined.append(QuarantinedRecord(record, tuple(problems)))
            if self._misfits > self._stream.max_quarantined:
                most = f"{self._stream.max_quarantined:,} records (max_quarantined)"
                told = f"sent more than {most} that do not fit the schema: {self._most_frequent()}"
                raise _error(told, key, problems[0])
        return (fitting, tuple(quarantined)) if self._stream.validation == "quarantine" else (records, ())

    def _count(self, problems: list[SchemaViolation], named: str) -> None:
        """One more misfit; warns of each place and keyword once."""
        self._misfits += 1
        for kind, problem in {(_place(problem), problem.keyword): problem for problem in problems}.items():
            if kind not in self._kinds:
                if len(self._kinds) >= _MOST_KINDS:
                    continue
                if self._stream.validation != "fail":
                    _log.warning("%s: %s does not fit the schema: %s", self._stream.name, named, problem)
            self._kinds[kind] += 1

    def _most_frequent(self) -> str:
        shown = self._kinds.most_common(_SHOWN_KINDS)
        told = ", ".join(f"{place or 'the record'} {keyword} ({count:,})" for (place, keyword), count in shown)
        return told + (", ..." if len(self._kinds) > _SHOWN_KINDS else "")


async def validation_of(stream: Stream, keeper: StateStore | None = None) -> RecordValidator:
    """The validation for one reading of a stream, whose schema is asked for where it matters.

    Whoever keeps what is read is asked whether it is the same stream, and told what its records look like. Raises
    ConfigError, and StateIncompatible.
    """
    if keeper is not None:
        keeper.check(stream)
    transforms = stream.transformer is not None and stream.transformer.is_active
    is_needed = keeper is not None and keeper.needs_schema
    schema = None if stream.validation == "off" and not transforms and not is_needed else await schema_of(stream)
    if schema is None and transforms:
        raise ConfigError(
            f"{type(stream).__name__}.transformer has nothing to go by: the stream has no schema",
            hint=f"add schemas/{stream.name}.json beside its module, or get_json_schema(self)",
        ).locate(stream=stream.name)
    if keeper is not None:
        keeper.described(stream, None if schema is None else schema.json)
    return RecordValidator(stream, schema)


async def schema_of(stream: Stream) -> RecordSchema | None:
    """What the stream's `get_json_schema` gives, compiled. Raises ConfigError for what is no schema."""
    try:
        given: Any = stream.get_json_schema()
        if inspect.isawaitable(given):
            given = await given
        return None if given is None else record_schema(given, "the schema")
    except AsyncStreamsError as error:
        error.locate(stream=stream.name)
        raise
    except Exception as error:
        error.add_note(f"asyncstreams: in get_json_schema of stream {stream.name!r}")
        raise


def _transform(stream: Stream, schema: RecordSchema | None) -> Callable[[list[Record]], None] | None:
    if schema is None or stream.transformer is None or not stream.transformer.is_active:
        return None
    return stream.transformer.compiled(schema.json)


def _place(problem: SchemaViolation) -> str:
    """The pointer, for all items of an array together."""
    return shortened(_INDEX.sub("/*", problem.pointer))


def _key(primary_key: PrimaryKey, record: Record) -> Any:
    """The value of the primary key, or a mapping where it has several fields; None where there is none."""
    paths = key_paths(primary_key)
    if len(paths) == 1:
        return _at(record, paths[0])
    return {".".join(path): _at(record, path) for path in paths} or None


def _at(record: Record, path: list[str]) -> Any:
    value: Any = record
    for name in path:
        value = (as_object(value) or {}).get(name)
    return value


def _named(key: Any, number: int) -> str:
    return f"record {number} of its page" if key is None else f"record {shortened(repr(key), _LONGEST_KEY)}"


def _error(message: str, key: Any, problem: SchemaViolation) -> SchemaError:
    return SchemaError(
        message,
        key=key,
        pointer=problem.pointer,
        keyword=problem.keyword,
        hint='mend the schema; or keep such records apart (validation = "quarantine"), or only count them ("report")',
    )
