"""What has the API served, to whom did it say no, and how much at once?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Counts:
    """A snapshot. `bytes` counts what was sent, heads included; `records` those of answers that were sent whole.

    Requests to `/_mock/` are not counted, nor are connections that asked for nothing else. A
    connection that is reset before its answer, and an answer that never comes, have no status.
    Mappings have no entry for what did not happen.
    """

    requests: int = 0
    records: int = 0
    bytes: int = 0
    by_resource: Mapping[str, int] = field(default_factory=dict[str, int])
    records_by_resource: Mapping[str, int] = field(default_factory=dict[str, int])
    by_status: Mapping[int, int] = field(default_factory=dict[int, int])
    by_fault: Mapping[str, int] = field(default_factory=dict[str, int])
    connections: int = 0
    open_connections: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    refused_by_auth: int = 0
    refused_by_quota: int = 0
    queued_by_quota: int = 0
    tokens_issued: int = 0
    tokens_reused: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON: statuses are text there."""
        return {**asdict(self), "by_status": {str(status): number for status, number in self.by_status.items()}}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Counts:
        """What `as_dict` gave, after its way through JSON."""
        by_status = {int(status): number for status, number in told["by_status"].items()}
        fields: dict[str, Any] = {**told, "by_status": by_status}
        return cls(**fields)

    def __str__(self) -> str:
        """A table for people."""
        rows = [
            ("requests", f"{self.requests:,}"),
            ("records", f"{self.records:,}"),
            ("bytes", f"{self.bytes:,}"),
            *((f"  /{name}", f"{number:,}") for name, number in sorted(self.by_resource.items())),
            *((f"  status {status}", f"{number:,}") for status, number in sorted(self.by_status.items())),
            *((f"  fault {name}", f"{number:,}") for name, number in sorted(self.by_fault.items())),
            ("connections", f"{self.connections:,}"),
            ("peak in flight", f"{self.peak_in_flight:,}"),
            ("refused by quota", f"{self.refused_by_quota:,}"),
            ("queued by quota", f"{self.queued_by_quota:,}"),
            ("refused by auth", f"{self.refused_by_auth:,}"),
            ("tokens issued", f"{self.tokens_issued:,}"),
            ("tokens reused", f"{self.tokens_reused:,}"),
            ("seconds", f"{self.seconds:,.1f}"),
        ]
        width, digits = max(len(name) for name, _ in rows), max(len(number) for _, number in rows)
        return "\n".join(f"{name:<{width}}  {number:>{digits}}" for name, number in rows)


class ResourceCounts:
    """What one resource answered with one status."""

    __slots__ = ("bytes", "records", "requests", "resource", "status")

    def __init__(self, resource: str, status: int) -> None:
        self.resource, self.status = resource, status
        self.requests = self.records = self.bytes = 0


class CountsRecorder:
    """The running counts. Only the server's own loop writes; any thread may take a snapshot."""

    def __init__(self) -> None:
        self.tallies: dict[tuple[str, int], ResourceCounts] = {}
        self.faults = Counter[str]()
        self.connections = self.open_connections = 0
        self.in_flight = self.peak_in_flight = 0
        self.refused_by_auth = self.refused_by_quota = self.queued_by_quota = 0
        self.tokens_issued = self.tokens_reused = 0

    def tally(self, resource: str, status: int) -> ResourceCounts:
        found = self.tallies.get((resource, status))
        if found is None:
            found = self.tallies[resource, status] = ResourceCounts(resource, status)
        return found

    def snapshot(self, seconds: float) -> Counts:
        tallies = list(self.tallies.values())
        by_resource, records_by_resource, by_status = Counter[str](), Counter[str](), Counter[int]()
        for tally in tallies:
            by_resource[tally.resource] += tally.requests
            records_by_resource[tally.resource] += tally.records
            by_status[tally.status] += tally.requests
        # Zero is no status: the connection ended before one was sent.
        del by_status[0]
        return Counts(
            requests=by_resource.total(),
            records=records_by_resource.total(),
            bytes=sum(tally.bytes for tally in tallies),
            by_resource=dict(+by_resource),
            records_by_resource=dict(+records_by_resource),
            by_status=dict(+by_status),
            by_fault=dict(self.faults),
            connections=self.connections,
            open_connections=self.open_connections,
            in_flight=self.in_flight,
            peak_in_flight=self.peak_in_flight,
            refused_by_auth=self.refused_by_auth,
            refused_by_quota=self.refused_by_quota,
            queued_by_quota=self.queued_by_quota,
            tokens_issued=self.tokens_issued,
            tokens_reused=self.tokens_reused,
            seconds=seconds,
        )
