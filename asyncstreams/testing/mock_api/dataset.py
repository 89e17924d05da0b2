"""Records of a resource, each of which is generated on request from the seed and its number."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from ...models import Record
from .resource import Resource
from .seeding import draw_bits, seed_key

_START = datetime(2026, 1, 1, tzinfo=UTC)
_FIRST = ("Ada", "Bo", "Cleo", "Dario", "Emine", "Femi", "Gus", "Hana", "Ivo", "Jun", "Kai", "Lena", "Mia", "Noor")
_LAST = ("Novak", "Okoye", "Park", "Quist", "Rossi", "Sato", "Thorn", "Urban", "Varga", "Wolff", "Xu", "Yilmaz")
_PLANS = ("free", "pro", "team")
_TAGS: tuple[list[str], ...] = (["new"], ["eu", "new"], [], ["vip"], ["eu"])
_CITIES = (("Oslo", "NO"), ("Lagos", "NG"), ("Łódź", "PL"), ("Kyoto", "JP"), ("Lima", "PE"), ("Turin", "IT"))
_NOTES = (None, None, "call back", 'says "hi"')


class Dataset:
    """The records of a resource, in slots from 0. The children of one parent have consecutive slots."""

    def __init__(self, resource: Resource, seed: int, parent: Dataset | None = None) -> None:
        self.resource, self.parent = resource, parent
        self._key = seed_key(seed, resource.name)
        low, self._width = resource.count if isinstance(resource.count, tuple) else (resource.count, resource.count)
        self._spread = self._width - low + 1
        self._slots_by_id: dict[str, int] | None = None

    def slots(self, parent_slot: int = 0) -> range:
        """The slots of the children of the parent in `parent_slot`; without a parent, all slots."""
        begin = parent_slot * self._width
        if self._spread == 1:
            return range(begin, begin + self._width)
        return range(begin, begin + self._width - draw_bits(self._key ^ 1, parent_slot) % self._spread)

    def all_slots(self) -> Iterator[int]:
        """All slots in the order of a complete read: parent by parent."""
        for parent_slot in (0,) if self.parent is None else self.parent.all_slots():
            yield from self.slots(parent_slot)

    def record(self, slot: int) -> Record:
        make = self.resource.data.record
        record = self._customer(slot) if make is None else make(slot + 1, random.Random(draw_bits(self._key, slot)))
        if self.parent is not None:
            record.setdefault(self._parent_field, self.parent.id_of(slot // self._width))
        return record

    def id_of(self, slot: int) -> Any:
        return slot + 1 if self._has_sequential_ids else self.record(slot)[self.resource.data.id_field]

    def find_slot(self, id_text: str, parent_slot: int = 0) -> int | None:
        """The slot of the record with this id among the children of one parent; None if there is none."""
        slots = self.slots(parent_slot)
        if self._has_sequential_ids:
            # int() rejects numbers of more than 4,300 digits, and no resource has 10**19 records.
            slot = int(id_text) - 1 if id_text.isdecimal() and len(id_text) < 20 else -1
        else:
            if self._slots_by_id is None:
                self._slots_by_id = {str(self.id_of(slot)): slot for slot in self.all_slots()}
            slot = self._slots_by_id.get(id_text, -1)
        return slot if slot in slots else None

    def slots_between(self, slots: range, since: str | None, until: str | None) -> range:
        """The slots with a cursor in [since, until). Raises ValueError for a bound that cannot be compared with it."""
        if not slots or (since is None and until is None):
            return slots
        sample = self.record(slots[0]).get(self.resource.data.cursor_field)

        def cursor(slot: int) -> Any:
            return _comparable(self.record(slot)[self.resource.data.cursor_field], sample)

        first = 0 if since is None else bisect_left(slots, _comparable(since, sample), key=cursor)
        last = len(slots) if until is None else bisect_left(slots, _comparable(until, sample), key=cursor)
        return slots[first : max(first, last)]

    @property
    def _has_sequential_ids(self) -> bool:
        return self.resource.data.record is None

    @property
    def _parent_field(self) -> str:
        return self.resource.parent_field or f"{(self.resource.parent or '').removesuffix('s')}_id"

    def _customer(self, slot: int) -> Record:
        bits = draw_bits(self._key, slot)
        first, last = _FIRST[bits % 14], _LAST[(bits >> 8) % 12]
        city, country = _CITIES[(bits >> 16) % 6]
        cents = (bits >> 24) % 100_000
        moment = _START + timedelta(seconds=slot * self.resource.data.every)
        return {
            self.resource.data.id_field: slot + 1,
            "name": f"{first} {last}",
            "email": f"{first}{slot + 1}@example.com",
            "active": bits >> 41 & 3 > 0,
            "age": 18 + (bits >> 44) % 60,
            "plan": _PLANS[(bits >> 50) % 3],
            "total": f"{cents // 100}.{cents % 100:02}",
            "rank": (bits >> 52) % 1_000 / 8,
            "tags": _TAGS[(bits >> 54) % 5],
            "city": {"name": city, "country": country},
            "note": _NOTES[(bits >> 57) % 4],
            self.resource.data.cursor_field: f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        }


def _comparable(value: Any, sample: Any) -> Any:
    """The value in a form that compares with values of the sample's type. Raises ValueError."""
    if isinstance(sample, bool) or not isinstance(sample, int | float | str):
        raise ValueError("records have no cursor that is a number or text")
    if isinstance(sample, int | float):
        return float(value)
    if not _is_datetime(sample):
        return value
    moment = datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _is_datetime(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
