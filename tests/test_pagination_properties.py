"""Pagination of simulated APIs: each row is read exactly once, or an error is raised."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import httpx
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams import AsyncStreamsError, Backoff, Header, HttpStream, Offset, PageNumber

Totals = Literal["none", "every", "first", "second", "zero", "null", "wrong type"]


@dataclass(frozen=True)
class Api:
    """An API of `rows` rows in pages of at most `size`."""

    rows: int
    size: int
    totals: Totals
    """On which pages totals are declared, or what stands in their place."""
    form: str
    """The form of a number."""
    beyond: Literal["empty", "repeated", "refused"]
    """The answer for a page beyond the end."""
    filters: bool
    """Whether the server removes rows of a page after it has applied the limit, but never all of them."""
    flags: bool
    """Whether each page says whether another one follows."""

    def respond(self, request: httpx.Request) -> httpx.Response:
        params = request.url.params
        size = min(self.size, int(params.get("limit", self.size)), int(params.get("per_page", self.size)))
        offset = int(params["offset"]) if "offset" in params else (int(params["page"]) - 1) * size
        if offset >= self.rows and offset:
            if self.beyond == "refused":
                return httpx.Response(404)
            if self.beyond == "repeated":
                offset = max(0, self.rows - 1) // size * size
        found = [row_at(number) for number in range(offset, min(offset + size, self.rows)) if self.is_sent(number)]
        fields = [f'"rows": {json.dumps(found)}', '"columns": [{"name": "id"}]']
        number = offset // size
        declared = {"first": number == 0, "second": number == 1}.get(self.totals, self.totals != "none")
        if declared:
            pages, rows = -(-self.rows // size), self.rows
            if self.totals == "zero":
                pages = rows = 0
            values = [self.form % pages, self.form % rows]
            if self.totals in ("null", "wrong type"):
                values = ["null"] * 2 if self.totals == "null" else ['{"value": 3}'] * 2
            fields += [f'"pages": {values[0]}', f'"total": {values[1]}']
        if self.flags:
            fields.append(f'"more": {json.dumps(offset + size < self.rows)}')
        return httpx.Response(200, text=f"{{{', '.join(fields)}}}", headers={"X-Size": str(size)})

    def is_sent(self, number: int) -> bool:
        return not (self.filters and self.size > 1 and number % 3 == 1)


def row_at(number: int) -> dict[str, Any]:
    return {"id": number, "lines": [{"line": f"{number}-{n}"} for n in range(2)]}


def keep_some(rows: list[Any]) -> list[Any]:
    return [row for row in rows if row["id"] % 7 < 2]


def explode(rows: list[Any]) -> list[Any]:
    return [{"id": line["line"]} for row in rows for line in row["lines"]]


PARSERS: dict[str, Any] = {
    "all": lambda rows: rows,
    "filtered": keep_some,
    "exploded": explode,
    "none": lambda rows: [],
}

apis = st.builds(
    Api,
    rows=st.integers(0, 32),
    size=st.integers(1, 10),
    totals=st.sampled_from(["none", "every", "first", "second", "zero", "null", "wrong type"]),
    form=st.sampled_from(["%d", "%d.0", '"%d"', '"%d.0"']),
    beyond=st.sampled_from(["empty", "repeated", "refused"]),
    filters=st.booleans(),
    flags=st.booleans(),
)


@st.composite
def paginators(draw: st.DrawFn, api: Api) -> Any:
    """A paginator that fits the API: its page size is at least that of the API, which may cap it."""
    size = api.size + draw(st.integers(0, 3))
    more = draw(st.sampled_from(["more", None]))
    total = draw(st.sampled_from(["total", None, Header("X-None")]))
    if api.filters:
        if draw(st.booleans()):
            return Offset(limit=api.size, step="limit", total=total, more=more)
        return PageNumber(size=api.size, total_pages=None if total is None else "pages", more=more)
    if draw(st.booleans()):
        short = draw(st.booleans()) and size == api.size
        return Offset(limit=size, total=total, more=more, stop_on_short_page=short)
    pages = draw(st.sampled_from(["pages", None]))
    short = draw(st.booleans()) and size == api.size
    return PageNumber(size=size, total_pages=pages, total_items=total, more=more, stop_on_short_page=short)


@examples(full=5000, short=60)
@given(data=st.data(), api=apis, parser=st.sampled_from(sorted(PARSERS)))
async def test_each_row_is_read_once_or_an_error_is_raised(data, api, parser):
    parse = PARSERS[parser]
    paginator = data.draw(paginators(api))
    has_path = data.draw(st.sampled_from([True, True, True, False])) or not api.flags
    members: dict[str, Any] = {
        "url_base": "https://api.test/",
        "path": lambda self, context: "rows",
        "paginator": paginator,
        "records_path": "rows" if has_path else None,
        "primary_key": data.draw(st.sampled_from(["id", None])),
        "parallel_pages": data.draw(st.booleans()),
        "backoff": Backoff(base=0, cap=0),
        "max_tries": 1,
    }
    if not has_path or parser != "all" or data.draw(st.booleans()):
        members["parse_response"] = lambda self, response, context: parse(response.json()["rows"])
    stream = type("Rows", (HttpStream,), members)(transport=httpx.MockTransport(api.respond))
    expected = parse([row_at(number) for number in range(api.rows) if api.is_sent(number)])

    try:
        records = await stream.read()
    except AsyncStreamsError:
        # Whatever is regular must be read: no excuse for an error.
        assert api.beyond != "empty" or api.filters or not has_path
        return

    assert records == expected
