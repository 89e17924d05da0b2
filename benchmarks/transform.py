"""What does a schema cost: CPU per record, to bring it to its types and to hold it against them.

Beside ours stand jsonschema and, where it is installed, the Airbyte CDK's transformer. Every case is done in turn,
again and again, on fresh copies of its records; the median counts.
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
    "flat, 15 fields, all right": (RIGHT, FLAT),
    "flat, 15 fields, 3 to cast": (THREE_WRONG, FLAT),
    "15 fields, 2 objects, 3 texts, 3 lines, all right": (DEEP, NESTED),
}


def ours(schema: Any) -> Job:
    page = TypeTransformer(TransformConfig.DefaultSchemaNormalization).compile(schema)
    assert page is not None
    return page


def one_by_one(schema: Any) -> Job:
    transformer = TypeTransformer(TransformConfig.DefaultSchemaNormalization)

    def job(records: list[Record]) -> None:
        for record in records:
            transformer.transform(record, schema)

    return job


def checked(schema: Any) -> Job:
    return RecordSchema(schema).all_valid


def jsonschema_alone(schema: Any) -> Job:
    validator = jsonschema.Draft7Validator(schema)

    def job(records: list[Record]) -> None:
        for record in records:
            validator.is_valid(record)

    return job


def airbyte(schema: Any) -> Job:
    theirs = importlib.import_module("airbyte_cdk.sources.utils.transform")
    transformer = theirs.TypeTransformer(theirs.TransformConfig.DefaultSchemaNormalization)

    def job(records: list[Record]) -> None:
        for record in records:
            transformer.transform(record, schema)

    return job


def contenders() -> dict[str, Callable[[Any], Job]]:
    found = {
        "cast: asyncstreams, a page": ours,
        "cast: asyncstreams, record by record": one_by_one,
        "check: asyncstreams, a page": checked,
        "check: jsonschema, record by record": jsonschema_alone,
    }
    try:
        importlib.import_module("airbyte_cdk.sources.utils.transform")
    except ImportError:
        return found
    return {**found, "cast: airbyte-cdk, record by record": airbyte}


def measure(records: int, rounds: int) -> dict[tuple[str, str], list[float]]:
    """CPU microseconds per record of each case and contender, round by round."""
    jobs = {
        (case, name): (build(schema), record)
        for case, (record, schema) in CASES.items()
        for name, build in contenders().items()
        # Of a page that does not fit, a verdict needs the first record only.
        if not (name.startswith("check") and record is THREE_WRONG)
    }
    found: dict[tuple[str, str], list[float]] = {key: [] for key in jobs}
    for number in range(rounds + 1):
        for key, (job, record) in jobs.items():
            pages = [[deepcopy(record) for _ in range(100)] for _ in range(records // 100)]
            begun = time.process_time()
            for page in pages:
                job(page)
            spent = time.process_time() - begun
            if number:  # the first round warms up
                found[key].append(spent / (len(pages) * 100) * 1e6)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--records", type=int, default=2000, help="records of one measurement (default 2000)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count (default 15)")
    chosen = parser.parse_args()
    logging.disable()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"Python {platform.python_version()}, {platform.machine()}, {cores} cores")
    print(f"{chosen.records} records a measurement, {chosen.rounds} interleaved rounds\n")
    print("| record | what | µs of CPU per record | spread |")
    print("|---|---|---|---|")
    for (case, name), values in measure(chosen.records, chosen.rounds).items():
        print(f"| {case} | {name} | {statistics.median(values):.2f} | {min(values):.2f} - {max(values):.2f} |")


if __name__ == "__main__":
    main()
