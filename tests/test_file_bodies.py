"""Bodies that are files: gzip, bzip2, zstd and ZIP without Content-Encoding, within the limits of a body."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import struct
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loopback import RawTransport

from asyncstreams import (
    AsyncStreamsError,
    BodyLimits,
    DecodeError,
    HttpStream,
    JsonLines,
    MalformedJSON,
    RemoteError,
    ResponseTooLarge,
    TruncatedBody,
    UnexpectedContent,
    csv_rows,
    json_items,
    ndjson,
)

MIB = 2**20
ROWS = [{"id": 1}, {"id": 2}]
LINES = b'{"id": 1}\n{"id": 2}\n'
ARRAY = b'[{"id": 1}, {"id": 2}]'
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "bzip2": bz2.compress, "zstd": zstd.compress}
any_compression = pytest.mark.parametrize("kind", sorted(COMPRESS))


class Lines(HttpStream):
    url_base = "https://api.example.com/"
    max_tries = 2

    def path(self, context):
        return "export"

    async def parse_response(self, response, context):
        async for record in ndjson(response):
            yield record


class Table(Lines):
    async def parse_response(self, response, context):
        async for record in csv_rows(response):
            yield record


class Items(Lines):
    async def parse_response(self, response, context):
        async for record in json_items(response):
            yield record


class Body(Lines):
    """The records of a complete JSON body."""

    parse_response = HttpStream.parse_response


class Text(Lines):
    """The records of a JSON text."""

    def parse_response(self, response, context):
        return json.loads(response.text)


class Orders(Lines):
    """The rows of those files of a ZIP file that a pattern chooses."""

    async def parse_response(self, response, context):
        async for record in csv_rows(response, members="orders-*.csv"):
            yield record


class Unchanged(Lines):
    """One record with the body as it was sent."""

    async def parse_response(self, response, context):
        yield {"body": b"".join([piece async for piece in response.aiter_bytes()])}


def zipped(*members: bytes, method: int = zipfile.ZIP_DEFLATED, names: Sequence[str] = ()) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for number, member in enumerate(members):
            archive.writestr(names[number] if names else f"part-{number}", member)
    return file.getvalue()


def byte_by_byte(body: bytes) -> Callable[[], Iterable[bytes]]:
    return lambda: (body[at : at + 1] for at in range(len(body)))


async def rows(kind: type[HttpStream], body: bytes | Callable[[], Iterable[bytes]], **options: Any) -> list[Any]:
    return await kind(transport=RawTransport(body), **options).read()


async def error_of(kind: type[HttpStream], body: Any, error: type[AsyncStreamsError], **options: Any) -> Any:
    with pytest.raises(error) as caught:
        await rows(kind, body, **options)
    return caught.value


BODIES = [
    pytest.param(Lines, LINES, ROWS, id="lines"),
    pytest.param(Table, b"id\n1\n2\n", [{"id": "1"}, {"id": "2"}], id="CSV"),
    pytest.param(Items, ARRAY, ROWS, id="items"),
    pytest.param(Body, ARRAY, ROWS, id="complete body"),
    pytest.param(Text, ARRAY, ROWS, id="text"),
]


@any_compression
@pytest.mark.parametrize(("stream", "text", "records"), BODIES)
async def test_compressed_file_is_read(kind, stream, text, records):
    body = COMPRESS[kind](text)

    assert await rows(stream, body) == records
    assert await rows(stream, byte_by_byte(body)) == records


@pytest.mark.parametrize(("stream", "text", "records"), BODIES)
async def test_zip_file_is_read(stream, text, records):
    body = zipped(text)

    assert await rows(stream, body) == records
    assert await rows(stream, byte_by_byte(body)) == records


@any_compression
async def test_file_of_several_parts_is_read_completely(kind):
    first, second = LINES[:13], LINES[13:]

    assert await rows(Lines, COMPRESS[kind](first) + COMPRESS[kind](second)) == ROWS


async def test_zstd_file_that_begins_with_a_skippable_frame_is_read():
    skippable = b"\x50\x2a\x4d\x18" + struct.pack("<I", 3) + b"abc"

    assert await rows(Lines, skippable + zstd.compress(LINES)) == ROWS


@any_compression
async def test_empty_file_has_no_records(kind):
    assert await rows(Lines, COMPRESS[kind](b"")) == []


@any_compression
async def test_body_of_a_compressed_file_is_unchanged_for_the_author(kind):
    body = COMPRESS[kind](LINES)

    assert await rows(Unchanged, body) == [{"body": body}]


async def test_file_within_a_content_coding_is_read():
    body = gzip.compress(gzip.compress(LINES))

    assert await Lines(transport=RawTransport(body, "gzip")).read() == ROWS


@pytest.mark.parametrize("text", [b"BZh9,name\n1,Ann\n", b"PK,name\n1,Ann\n", b"(id),name\n1,Ann\n"])
async def test_text_that_begins_like_a_file_is_a_text(text):
    name = text.partition(b",")[0].decode()

    assert await rows(Table, byte_by_byte(text)) == [{name: "1", "name": "Ann"}]


async def test_gzipped_json_is_extracted_with_its_records_intact(tmp_path):
    report = await Body(transport=RawTransport(gzip.compress(ARRAY))).extract(to=JsonLines(tmp_path))

    assert report.streams[0].raw_passthrough
    (part,) = (tmp_path / "body").glob("*.jsonl*")
    assert [json.loads(line) for line in part.read_text().splitlines()] == ROWS


@any_compression
@pytest.mark.parametrize("stream", [Lines, Body])
async def test_truncated_file_is_retried_then_truncated_body(kind, stream, virtual_clock):
    text = LINES if stream is Lines else ARRAY

    error = await error_of(stream, COMPRESS[kind](text)[:-1], TruncatedBody, clock=virtual_clock)

    assert error.tries == 2
    assert kind in str(error)


async def test_garbage_after_a_gzip_file_is_a_decode_error(virtual_clock):
    await error_of(Lines, gzip.compress(LINES) + b"<!-- cached -->", DecodeError, clock=virtual_clock)


@any_compression
@pytest.mark.parametrize("stream", [Lines, Body])
@pytest.mark.parametrize(
    ("limits", "setting"), [(BodyLimits(), "ratio"), (BodyLimits(decoded=MIB, ratio=10**9), "decoded")]
)
async def test_compressed_bomb_is_refused(kind, stream, limits, setting):
    bomb = COMPRESS[kind](bytes(8 * MIB))

    error = await error_of(stream, bomb, ResponseTooLarge, body_limits=limits)

    assert f"BodyLimits({setting}=" in str(error)


@pytest.mark.parametrize("stream", [Lines, Body, Text])
async def test_zip_bomb_is_refused(stream):
    await error_of(stream, zipped(b"\n" * 8 * MIB), ResponseTooLarge)


async def test_zip_limits_hold_for_all_members_together():
    member = b'{"id": 1}\n' * 60_000
    body = zipped(*[member] * 4, method=zipfile.ZIP_STORED)

    error = await error_of(Lines, body, ResponseTooLarge, body_limits=BodyLimits(decoded=2 * MIB, wire=4 * MIB))

    assert "BodyLimits(decoded=" in str(error)


async def test_bomb_in_a_compressed_member_of_a_zip_is_refused():
    inner = bz2.compress(b"\n" * 8 * MIB)

    await error_of(Lines, zipped(inner, method=zipfile.ZIP_STORED), ResponseTooLarge)


async def test_zip_that_lies_about_a_size_is_refused():
    body = bytearray(zipped(b"\n" * 4096))
    at = body.rindex(b"PK\x01\x02") + 24
    body[at : at + 4] = struct.pack("<I", 10)

    await error_of(Lines, bytes(body), DecodeError)


async def test_zip_of_1000_files_is_read_and_one_more_is_refused():
    assert len(await rows(Lines, zipped(*[b'{"id": 1}'] * 1000))) == 1000

    error = await error_of(Lines, zipped(*[b'{"id": 1}'] * 1001), ResponseTooLarge)

    assert "1,001 files" in str(error)


async def test_directory_of_a_zip_is_bounded_before_it_is_parsed():
    entry = bytearray(zipped(b"x"))
    start = entry.index(b"PK\x01\x02")
    directory = bytes(entry[start : start + 46 + 6]) * 30_000
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 30_000, 30_000, len(directory), start, 0)

    error = await error_of(Lines, bytes(entry[:start]) + directory + end, ResponseTooLarge)

    assert "a directory of" in str(error)


async def test_members_of_a_zip_are_read_one_after_the_other():
    body = zipped(b"id,name\n1,Ann\n", b"id,age\n2,30", b"")

    assert await rows(Table, body) == [{"id": "1", "name": "Ann"}, {"id": "2", "age": "30"}]


@pytest.mark.parametrize(("stream", "text", "records"), BODIES)
async def test_files_of_operating_systems_in_a_zip_are_left_out(stream, text, records):
    junk = b"\x00\x05\x16\x07"
    names = ["export/", "export/a", "__MACOSX/export/._a", "export/.DS_Store", "._b", "Thumbs.db"]

    assert await rows(stream, zipped(b"", text, junk, junk, junk, junk, names=names)) == records


async def test_members_of_a_zip_are_chosen_by_name():
    names = ["readme.txt", "data/orders-1.csv", "orders-2.csv", "lines.csv"]
    body = zipped(b"Hello", b"id\n1\n", b"id\n2\n", b"x,y\n3,4\n", names=names)

    assert await rows(Orders, body) == [{"id": "1"}, {"id": "2"}]


async def test_zip_without_a_chosen_member_names_its_files():
    names = ["read\x1bme.txt", *[f"lines-{number}.csv" for number in range(6)]]

    error = await error_of(Orders, zipped(*[b"id\n1\n"] * 7, names=names), UnexpectedContent)

    assert "no name matches members='orders-*.csv'" in str(error)
    assert r"read\x1bme.txt, lines-0.csv, lines-1.csv, lines-2.csv, lines-3.csv and 2 more" in str(error)


async def test_choice_of_members_without_a_zip_is_refused():
    error = await error_of(Orders, b"id\n1\n", UnexpectedContent)

    assert "sent no ZIP file" in str(error)


async def test_compressed_members_of_a_zip_are_read():
    body = zipped(gzip.compress(LINES), zstd.compress(LINES), bz2.compress(LINES))

    assert await rows(Lines, body) == ROWS * 3


async def test_names_of_zip_members_are_never_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["../../etc/passwd", "/tmp/asyncstreams-test", "folder/", "folder/a\\b"]

    records = await rows(Lines, zipped(LINES, LINES, b"", LINES, names=names))

    assert records == ROWS * 3
    assert list(tmp_path.iterdir()) == []


def _encrypted(body: bytes) -> bytes:
    flagged = bytearray(body)
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        flagged[flagged.index(signature) + flags] |= 1
    return bytes(flagged)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(_encrypted(zipped(LINES)), "an encrypted ZIP file", id="encrypted"),
        pytest.param(zipped(zipped(LINES)), "a ZIP file within a ZIP file", id="ZIP in ZIP"),
        pytest.param(zipped(gzip.compress(zipped(LINES))), "a ZIP file within a gzip file", id="ZIP in gzip in ZIP"),
        pytest.param(gzip.compress(gzip.compress(LINES)), "a gzip file within a gzip file", id="gzip in gzip"),
        pytest.param(gzip.compress(zipped(LINES)), "a ZIP file within a gzip file", id="ZIP in gzip"),
        pytest.param(zipped(LINES, method=zipfile.ZIP_LZMA), "method 14", id="LZMA in ZIP"),
        pytest.param(zipped(b"<xml>", names=["[Content_Types].xml"]), "Office document", id="xlsx"),
        pytest.param(lzma.compress(LINES), "an xz file", id="xz"),
        pytest.param(b"PAR1\x15\x04\x15\x10", "a Parquet file", id="Parquet"),
        pytest.param(b"%PDF-1.7\n", "a PDF file", id="PDF"),
    ],
)
@pytest.mark.parametrize("stream", [Lines, Body])
async def test_file_that_is_not_read_is_named(stream, body, message):
    error = await error_of(stream, body, UnexpectedContent)

    assert message in str(error)
    assert not isinstance(error, MalformedJSON)


async def test_complete_body_of_a_zip_with_two_files_is_refused():
    error = await error_of(Body, zipped(ARRAY, ARRAY), UnexpectedContent)

    assert "2 files where one text is expected" in str(error)


@any_compression
async def test_compressed_text_that_is_not_json_is_quoted(kind, virtual_clock):
    error = await error_of(Body, COMPRESS[kind](b"id,name\n1,Ann\n"), MalformedJSON, clock=virtual_clock)

    assert "'id,name\\n1,Ann" in str(error)


async def test_zip_without_files_has_no_records():
    assert await rows(Table, zipped()) == []


async def test_truncated_zip_is_retried_then_truncated_body(virtual_clock):
    error = await error_of(Lines, zipped(LINES)[:-10], TruncatedBody, clock=virtual_clock)

    assert error.tries == 2


async def test_damaged_member_of_a_zip_is_named_by_number(virtual_clock):
    body = bytearray(zipped(LINES, LINES, method=zipfile.ZIP_STORED, names=["a", "secret-name"]))
    body[body.rindex(b'"id"')] ^= 1

    error = await error_of(Lines, bytes(body), DecodeError, clock=virtual_clock)

    assert "in file 2" in str(error)
    assert "secret-name" not in str(error)


async def test_full_disk_is_a_local_error(monkeypatch):
    class FullDisk(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", FullDisk)

    with pytest.raises(AsyncStreamsError, match="No space left on device") as caught:
        await rows(Lines, zipped(LINES))

    assert not isinstance(caught.value, RemoteError)


async def test_temporary_file_of_a_zip_is_closed(monkeypatch):
    files: list[io.BytesIO] = []

    def open_file() -> io.BytesIO:
        files.append(io.BytesIO())
        return files[-1]

    monkeypatch.setattr("tempfile.TemporaryFile", open_file)
    async with Lines(transport=RawTransport(zipped(LINES * 2000))).records() as records:
        async for _ in records:
            break

    assert [file.closed for file in files] == [True]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10**6), value=st.integers(1, 255), method=st.sampled_from([0, 8]))
async def test_damaged_zip_gives_its_rows_or_a_remote_error(at, value, method, virtual_clock):
    body = bytearray(zipped(LINES, LINES, method=method))
    body[at % len(body)] ^= value

    try:
        found = await rows(Lines, bytes(body), clock=virtual_clock)
    except RemoteError:
        return

    assert found in (ROWS * 2, ROWS)


async def test_pages_of_a_compressed_file_are_bounded_in_bytes():
    body = gzip.compress(b"".join(b'{"id": %d, "text": "%s"}\n' % (n, b"x" * 20_000) for n in range(200)))

    async with Lines(transport=RawTransport(body), body_limits=BodyLimits(ratio=10**4)).pages() as pages:
        sizes = [len(page.records) async for page in pages]

    assert len(sizes) > 1
    assert sum(sizes) == 200
