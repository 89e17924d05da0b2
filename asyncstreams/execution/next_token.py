"""Tokens of the next pages of one slice, and the checks of a first page for undeclared or unreadable pagination."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from .._json import as_array, json_type_name
from ..errors import ConfigError, MalformedJSON, PaginationUndeclared, UnexpectedContent
from ..messages import Response
from ..pagination.numbered import (
    UNKNOWN_EXTENT,
    Extent,
    ExtentTracker,
    array_lengths,
    candidate_paths,
    find_rows,
    json_body,
)
from ..pagination.paginators import LinkHeader, NextUrl, Offset, ends_without_token
from ..pagination.record_path import select_rows
from ..pagination.selectors import ABSENT, as_count, describe_selector, explain_miss, select_path, select_value
from ..pagination.undeclared import PaginationSign, find_next_page, find_sign, may_have_sign
from ..records.raw_records import PageRecords, RawRecords
from .stream_run import StreamRun


class NextToken:
    """Determines the token of each next page of one slice.

    What ends or moves the pagination is what the API sent: rows, totals, flags and tokens. The records that
    `parse_response` made of a page, which may be filtered or exploded, never count.
    """

    def __init__(self, run: StreamRun, *, is_resumed: bool = False) -> None:
        self._run, self._stream, self._is_resumed = run, run.stream, is_resumed
        self._traits = run.pagination.traits
        self._tracker = ExtentTracker() if self._traits.has_extent else None
        self.extent = UNKNOWN_EXTENT
        """What the API declares about the length of the slice, as far as it is believed."""

    @property
    def guesses_pages(self) -> bool:
        """Whether the next page is requested without the API having named it, so that it may lie beyond the end."""
        return self._traits.numbered is not None and not self.extent.is_known

    def must_pages_differ(self, *, has_rows: bool) -> bool:
        """Whether equal first and second pages show that the API ignores a parameter, rather than that rows are equal.

        `has_rows` says that rows of the API are compared, and not records without keys, which may be equal.
        """
        if isinstance(self._traits.paginator, LinkHeader | NextUrl):
            return False
        return bool(self._stream.resolved.primary_key) or (self._traits.numbered is not None and has_rows)

    def find_rows(
        self, records: PageRecords, response: Response, record_count: int
    ) -> tuple[Sequence[Any], int | None]:
        """The rows of a response, or records where they are unknown; and the number of rows that the API sent.

        The number is None if the paginator needs it, but it cannot be known. A paginator that does not need it gets
        the number of records.
        """
        if isinstance(records, RawRecords):
            return records.items, record_count
        if self._run.pagination.uses_default_parser or not self._traits.counts_rows:
            return records, record_count
        rows = find_rows(self._stream.resolved.records_path, response)
        if rows is None or (not rows and records):
            return records, response.rows_read
        return list(rows.values()) if isinstance(rows, dict) else rows, len(rows)

    def next_token(self, token: Any, number: int, records: PageRecords, response: Response, count: int | None) -> Any:
        """The token after page `number`, which `token` requested; falsy or None at the end. `count` as by `find_rows`.

        `records` are those of the response, or the last ones of a streamed response. Raises ConfigError if the rows
        are needed and cannot be counted, and PaginationUndeclared.
        """
        if self._traits.shows_records and not isinstance(records, RawRecords):
            response.set_page_records(records)
        if not self._run.pagination.uses_paginator:
            return self._stream.next_page_token(response, response.context)
        if self._traits.paginator is None:
            if not self._stream.resolved.single_page:
                self._check_undeclared(records, response, len(records) if count is None else count)
            return None
        current = self._traits.paginator.first() if token is None else token
        if self._traits.numbered is None:
            if count is None:
                raise self._uncountable_error(response)
            following = self._traits.paginator.next(current, response, count)
        else:
            if self._tracker is not None:
                self._declare(number, records, response, count)
            if count is None:
                self._check_uncounted(current, response)
            received = None if self._tracker is None or count is None or self._is_resumed else self._tracker.rows
            following = self._traits.numbered.next_within(current, self.extent, count, received)
        if count is not None and not self._run.pagination.has_counted_rows:
            self._run.pagination.mark_counted()
        if following is None and number == 0 and records and not self._run.progress.has_warned("pages"):
            self._warn_of_ignored_page(records, response)
        return following

    def check_streamed(self, records: PageRecords, response: Response) -> None:
        """Check a response whose body is still arriving, before its first records are delivered.

        Raises ConfigError if its rows cannot be counted, and PaginationUndeclared.
        """
        _, count = self.find_rows(records, response, len(records))
        if count is None and self._tracker is None:
            raise self._uncountable_error(response)
        if (
            self._run.pagination.uses_paginator
            and self._traits.paginator is None
            and not self._stream.resolved.single_page
        ):
            self._report_sign(find_next_page(response))

    def _declare(self, number: int, records: PageRecords, response: Response, count: int | None) -> None:
        """Combine what a response declares with what earlier ones did."""
        assert self._traits.numbered is not None
        assert self._tracker is not None
        declared = self._traits.numbered.extent(response)
        # A record, however made, proves that there was a row, and a total of 0 beside some array is not believed.
        min_rows = int(bool(records) or any(array_lengths(json_body(response)))) if count is None else count
        self.extent = self._tracker.add_page(declared, min_rows)
        if (rejected := self._tracker.rejected) is not None:
            total, received = rejected
            self._run.progress.warn_once(
                "total",
                f"the API declares a total of {total:,}, but sent {received}; the total is not "
                "believed, and pages are read until one is empty",
            )
        if number == 0 and not self._run.progress.has_warned("selector"):
            self._warn_of_unread_totals(response, declared)

    def _check_uncounted(self, token: Any, response: Response) -> None:
        """Check that the next page can be determined without the number of rows. Raises ConfigError.

        Without it, an offset moves by the limit, and a number of rows is divided by the page size. Since the API may
        send smaller pages, the body must contain an array of that length; it is not decided which one has the rows.
        """
        if not self.extent.is_known:
            raise self._uncountable_error(response, "" if self._tracker is None else ", and no total is declared")
        size = self._assumed_size
        if size is None or self.extent.more is False:
            return
        expected = size
        if self.extent.rows is not None:
            moved = int(token) - self._traits.paginator.first()
            expected = min(
                size, self.extent.rows - (moved if isinstance(self._traits.numbered, Offset) else moved * size)
            )
        body = json_body(response)
        if body is None:
            self._run.progress.warn_once(
                "size",
                f"the rows of a page cannot be counted, so each page is assumed to have "
                f"{size:,}; if the API sends fewer, rows are left out",
            )
        elif expected > 0 and expected not in array_lengths(body):
            raise self._uncountable_error(response, f", and no array has the {expected:,} rows of a full page")

    @property
    def _assumed_size(self) -> int | None:
        """The page size by which a paginator moves if it cannot count rows; None if it moves by pages."""
        if isinstance(self._traits.numbered, Offset):
            return self._traits.numbered.limit if self._traits.numbered.step == "rows" else None
        if self._traits.numbered is None or self.extent.more is not None or self.extent.pages is not None:
            return None
        return self._traits.numbered.size

    def _warn_of_unread_totals(self, response: Response, declared: Extent) -> None:
        assert self._traits.numbered is not None
        for selector in self._traits.numbered.totals:
            value = select_value(selector, response, ABSENT)
            if value is None or value is ABSENT:
                why = explain_miss(selector, response)
            else:
                is_number = isinstance(value, int | float) and value < 0
                is_read = selector is self._traits.numbered.more or as_count(value) is not None or is_number
                kind = json_type_name(value)
                why = None if is_read else f"{describe_selector(selector)} is a JSON {kind} that is no whole number"
            if why is not None:
                self._run.progress.warn_once("selector", f"the end of the pages is not declared: {why}")

    def _uncountable_error(self, response: Response, reason: str = "") -> Exception:
        """The error for a page whose rows cannot be counted, with the places at which they may be."""
        path, paginator = self._stream.resolved.records_path, type(self._traits.paginator).__name__
        body = json_body(response)
        if self._run.pagination.has_counted_rows:
            rows = body if path is None else select_rows(path, body)
            kind = json_type_name(None if rows is ABSENT else rows)
            place = "as the body" if path is None else f"at records_path = {path!r}"
            return UnexpectedContent(f"sent a page whose rows cannot be counted: a JSON {kind} {place}")
        candidates = candidate_paths(body)
        if as_array(body) is not None:
            hint = "remove records_path: the body itself is the array"
        elif candidates:
            more = f" (or {', '.join(map(repr, candidates[1:]))})" if candidates[1:] else ""
            hint = f"set records_path = {candidates[0]!r}{more}, the array with one item per row"
        elif self._traits.numbered is None:
            hint = "set records_path to the array with one item per row"
        else:
            hint = f"set records_path to the array with one item per row, or declare {paginator}(more=...)"
        if self._traits.numbered is None:
            hint += "; if its next() does not use the count, declare counts_rows = False in the paginator"
        elif candidates:
            hint += f"; or declare a total or more= in the {paginator}"
        where = "records_path is not set" if path is None else f"there are none at records_path = {path!r}"
        return ConfigError(
            f"sent rows that {paginator} cannot count: parse_response is overridden, and {where}{reason}",
            hint=hint,
        )

    def _check_undeclared(self, records: PageRecords, response: Response, count: int) -> None:
        """Raises PaginationUndeclared, or warns, if the only page of a slice names further pages."""
        facts, path = self._run.pagination, self._stream.resolved.records_path
        if facts.is_known_end(records, response, count):
            return
        if response.decoded_json is None and response.has_body and may_have_sign(response.content, count):
            json_body(response)  # not decoded yet, as in raw passthrough
        sign = find_sign(response, count if facts.uses_default_parser else 0, path)
        if sign is not None and not facts.uses_default_parser:
            sign = find_sign(response, self._count_for_total(records, response, count), path)
        if sign is None:
            facts.remember_end(records, response, count)
        else:
            self._report_sign(sign)

    def _report_sign(self, sign: PaginationSign | None) -> None:
        if sign is None:
            return
        if sign.is_certain and not self._run.bounds.is_preview:
            raise PaginationUndeclared(
                f"has {sign.where}, but the stream has no paginator, so its other pages would be left out",
                hint=_declaration_hint(sign),
            )
        self._run.progress.warn_once(
            "pages",
            f"the first page is treated as the only one: the response has {sign.where}, but the "
            f"stream has no paginator; {_declaration_hint(sign)}",
        )

    def _count_for_total(self, records: PageRecords, response: Response, count: int) -> int:
        """The number of rows with which a total is compared; where they are unknown, at least that number."""
        rows = find_rows(self._stream.resolved.records_path, response)
        if rows is not None and (rows or not records):
            return len(rows)
        body = response.decoded_json
        lengths = [len(select_path(path, body)) for path in candidate_paths(body)]
        return max([count, response.rows_read or 0, *lengths])

    def _warn_of_ignored_page(self, records: PageRecords, response: Response) -> None:
        """Warn, once per stream, if the only page of a slice names a next page that the paginator does not read."""
        facts = self._run.pagination
        if facts.is_known_end(records, response):
            return
        selector = getattr(self._traits.paginator, "selector", None)
        if isinstance(records, RawRecords):
            if self._run.progress.slices_done:
                return  # decoding costs time, and the first slices would have shown it
            with suppress(MalformedJSON):  # such as a number beyond a double, which raw passthrough copies unchanged
                response.json()
        why = None if selector is None else explain_miss(selector, response)
        if (
            why is None
            and ends_without_token(self._traits.paginator)
            and (sign := find_next_page(response)) is not None
        ):
            why = f"the response has {sign.where}, but {self._traits.paginator} does not read it"
        if why is None:
            facts.remember_end(records, response)
        else:
            self._run.progress.warn_once("pages", f"the first page is treated as the only one: {why}")


def _declaration_hint(sign: PaginationSign) -> str:
    return (
        f"set paginator = {sign.paginator}, with the parameter names of the API; or single_page = True, if one page "
        "is meant"
    )
