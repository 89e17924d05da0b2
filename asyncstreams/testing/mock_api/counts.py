"""Counters of the requests, records, faults, refusals and connections of a MockApi."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any


@dataclass(slots=True)
class AdmissionCounts:
    """Requests that authentication or a quota refused or delayed, and OAuth2 tokens."""

    refused_by_auth: int = 0
    refused_by_quota: int = 0
    queued_by_quota: int = 0
    tokens_issued: int = 0
    tokens_reused: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """A snapshot of what a MockApi has served since its start. `str()` gives a table for people.

    - `requests`, `by_resource`, `by_status`: all requests, by resource name ("unknown" for other paths) and by
      response status. A request that was reset before its response, or never answered, has no status.
    - `records`, `records_by_resource`: records in responses that were sent completely.
    - `bytes`: bytes sent, including response heads.
    - `by_fault`: injected faults by kind ("status", "reset", ...).
    - `connections`, `open_connections`: accepted so far, and open now.
    - `in_flight`, `peak_in_flight`: requests in progress now, and the most at once.
    - `refused_by_auth`, `refused_by_quota`, `queued_by_quota`: requests that authentication or a quota refused,
      and those that a quota delayed. `admission` holds them and the tokens.
    - `tokens_issued`, `tokens_reused`: OAuth2 access tokens issued, and attempts to use a refresh token again.
    - `seconds`: time since the start, by the clock of the API.

    Requests to `/_mock/`, and connections with no other request, are not counted. Mappings have entries only for
    counts above 0.
    """

    bytes: int = 0
    by_resource: Mapping[str, int] = field(default_factory=dict[str, int])
    records_by_resource: Mapping[str, int] = field(default_factory=dict[str, int])
    by_status: Mapping[int, int] = field(default_factory=dict[int, int])
    by_fault: Mapping[str, int] = field(default_factory=dict[str, int])
    connections: int = 0
    open_connections: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    admission: AdmissionCounts = field(default_factory=AdmissionCounts)
    seconds: float = 0.0

    @property
    def requests(self) -> int:
        return sum(self.by_resource.values())

    @property
    def records(self) -> int:
        return sum(self.records_by_resource.values())

    @property
    def refused_by_auth(self) -> int:
        return self.admission.refused_by_auth

    @property
    def refused_by_quota(self) -> int:
        return self.admission.refused_by_quota

    @property
    def queued_by_quota(self) -> int:
        return self.admission.queued_by_quota

    @property
    def tokens_issued(self) -> int:
        return self.admission.tokens_issued

    @property
    def tokens_reused(self) -> int:
        return self.admission.tokens_reused

    def as_dict(self) -> dict[str, Any]:
        """The counts as a flat dict for JSON, in which the keys of `by_status` are text."""
        values = asdict(self)
        admission = values.pop("admission")
        by_status = {str(status): number for status, number in self.by_status.items()}
        return {"requests": self.requests, "records": self.records, **values, **admission, "by_status": by_status}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Counts:
        """Counts from the dict that `as_dict` returned, also after encoding as JSON."""
        values = dict(data)
        admission = AdmissionCounts(**{item.name: values.pop(item.name) for item in fields(AdmissionCounts)})
        del values["requests"], values["records"]
        values["by_status"] = {int(status): number for status, number in data["by_status"].items()}
        return cls(**values, admission=admission)

    def __str__(self) -> str:
        """A table of name and number, one row a line."""
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
    """Requests, records and bytes of one resource and one response status."""

    __slots__ = ("bytes", "records", "requests", "resource", "status")

    def __init__(self, resource: str, status: int) -> None:
        self.resource, self.status = resource, status
        self.requests = self.records = self.bytes = 0


class CountsRecorder:
    """The current counters. Only the server's event loop writes them; any thread may take a snapshot."""

    def __init__(self) -> None:
        self.by_resource_and_status: dict[tuple[str, int], ResourceCounts] = {}
        self.faults = Counter[str]()
        self.connections = self.open_connections = 0
        self.in_flight = self.peak_in_flight = 0
        self.admission = AdmissionCounts()

    def counts_for(self, resource: str, status: int) -> ResourceCounts:
        counts = self.by_resource_and_status.get((resource, status))
        if counts is None:
            counts = self.by_resource_and_status[resource, status] = ResourceCounts(resource, status)
        return counts

    def snapshot(self, seconds: float) -> Counts:
        all_counts = list(self.by_resource_and_status.values())
        by_resource, records_by_resource, by_status = Counter[str](), Counter[str](), Counter[int]()
        for counts in all_counts:
            by_resource[counts.resource] += counts.requests
            records_by_resource[counts.resource] += counts.records
            by_status[counts.status] += counts.requests
        # 0 stands for requests whose connection ended before a status was sent.
        del by_status[0]
        return Counts(
            bytes=sum(counts.bytes for counts in all_counts),
            by_resource=dict(+by_resource),
            records_by_resource=dict(+records_by_resource),
            by_status=dict(+by_status),
            by_fault=dict(self.faults),
            connections=self.connections,
            open_connections=self.open_connections,
            in_flight=self.in_flight,
            peak_in_flight=self.peak_in_flight,
            admission=replace(self.admission),
            seconds=seconds,
        )
