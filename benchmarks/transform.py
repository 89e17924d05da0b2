"""CPU per record for casting records to their schema and for validating them.

The contenders are asyncstreams, jsonschema and, if it is installed, the transformer of the Airbyte CDK. Each
round runs every case on fresh copies of its records; the result is the median.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import jsonschema

from asyncstreams.schemas.record_schema import RecordSchema
from asyncstreams.schemas.type_transformer import TransformConfig, TypeTransformer

Record = dict[str, Any]
Job = Callable[[list[Record]], None]

TEXT = {"type": ["string", "null"]}
FLAT = {
    "type": "object",
    "properties": {
        **{f"text_{n}": TEXT for n in range(8)},
        **{f"count_{n}": {"type": ["integer", "null"]} for n in range(3)},
        **{f"price_{n}": {"type": "number"} for n in range(2)},
        **{f"is_{n}": {"type": "boolean"} for n in range(2)},
    },
}
RIGHT: Record = {
    **{f"text_{n}": f"some text {n}" for n in range(8)},
    **{f"count_{n}": n * 1000 for n in range(3)},
    **{f"price_{n}": n + 0.5 for n in range(2)},
    **{f"is_{n}": bool(n) for n in range(2)},
}
THREE_WRONG: Record = {**RIGHT, "text_0": 17, "count_0": "1000", "is_0": "true"}
ADDRESS = {"type": "object", "properties": dict.fromkeys(("street", "town", "zip"), TEXT)}
NESTED = {
    "type": "object",
    "properties": {
        **FLAT["properties"],
        "billing": ADDRESS,
        "shipping": ADDRESS,
        "tags": {"type": "array", "items": {"type": "string"}},
        "lines": {
            "type": "array",
            "items": {"type": "object", "properties": {"sku": TEXT, "count": {"type": "integer"}}},
        },
    },
}
PLACE = {"street": "Some Street 1", "town": "Some Town", "zip": "12345"}
DEEP: Record = {
    **RIGHT,
    "billing": PLACE,
    "shipping": PLACE,
    "tags": ["a", "b", "c"],
    "lines": [{"sku": "x", "count": n} for n in range(3)],
}
CASES: dict[str, tuple[Record, Any]] = {
    "flat, 15 fields, all valid": (RIGHT, FLAT),
    "flat, 15 fields, 3 to cast": (THREE_WRONG, FLAT),
    "15 fields, 2 objects, 3 texts, 3 lines, all valid": (DEEP, NESTED),
}


def transform_pages(schema: Any) -> Job:
    transform_page = TypeTransformer(TransformConfig.DefaultSchemaNormalization).compile(schema)
    assert transform_page is not None
    return transform_page


def transform_records(schema: Any) -> Job:
    transformer = TypeTransformer(TransformConfig.DefaultSchemaNormalization)

    def job(records: list[Record]) -> None:
        for record in records:
            transformer.transform(record, schema)

    return job


def validate_pages(schema: Any) -> Job:
    return RecordSchema(schema).all_valid


def validate_by_jsonschema(schema: Any) -> Job:
    validator = jsonschema.Draft7Validator(schema)

    def job(records: list[Record]) -> None:
        for record in records:
            validator.is_valid(record)

    return job


def transform_by_airbyte(schema: Any) -> Job:
    cdk = importlib.import_module("airbyte_cdk.sources.utils.transform")
    transformer = cdk.TypeTransformer(cdk.TransformConfig.DefaultSchemaNormalization)

    def job(records: list[Record]) -> None:
        for record in records:
            transformer.transform(record, schema)

    return job


def contenders() -> dict[str, Callable[[Any], Job]]:
    available = {
        "cast: asyncstreams, a page": transform_pages,
        "cast: asyncstreams, record by record": transform_records,
        "check: asyncstreams, a page": validate_pages,
        "check: jsonschema, record by record": validate_by_jsonschema,
    }
    try:
        importlib.import_module("airbyte_cdk.sources.utils.transform")
    except ImportError:
        return available
    return {**available, "cast: airbyte-cdk, record by record": transform_by_airbyte}


def measure(records: int, rounds: int) -> dict[tuple[str, str], list[float]]:
    """CPU microseconds per record of each case and contender, in the order of the rounds."""
    jobs = {
        (case, name): (build(schema), record)
        for case, (record, schema) in CASES.items()
        for name, build in contenders().items()
        # An invalid page is rejected at its first record, so its cost per record says nothing.
        if not (name.startswith("check") and record is THREE_WRONG)
    }
    measurements: dict[tuple[str, str], list[float]] = {key: [] for key in jobs}
    for number in range(rounds + 1):
        for key, (job, record) in jobs.items():
            pages = [[deepcopy(record) for _ in range(100)] for _ in range(records // 100)]
            started = time.process_time()
            for page in pages:
                job(page)
            cpu = time.process_time() - started
            if number:  # the first round warms up
                measurements[key].append(cpu / (len(pages) * 100) * 1e6)
    return measurements


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--records", type=int, default=2000, help="records in each measurement (default: 2000)")
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds (default: 15)")
    args = parser.parse_args()
    logging.disable()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"Python {platform.python_version()}, {platform.machine()}, {cores} cores")
    print(f"{args.records} records in each measurement, {args.rounds} interleaved rounds\n")
    print("| record | contender | µs of CPU per record | spread |")
    print("|---|---|---|---|")
    for (case, name), values in measure(args.records, args.rounds).items():
        print(f"| {case} | {name} | {statistics.median(values):.2f} | {min(values):.2f} - {max(values):.2f} |")


if __name__ == "__main__":
    main()
