"""The parent cache: complete parent logs that later runs of the same stream use until they expire."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_api import Api, collect_pages, real_timeout, subclass
from tree_api import Customers, Invoices, Orders, requested_pages, sorted_ids, tree_responder

from asyncstreams import RequestContext, Source, TokenAuthenticator
from asyncstreams.errors import PartialFailure
from asyncstreams.parents.log_file import LogFile
from asyncstreams.testing import VirtualClock

ALL_IDS = [f"{n}-0" for n in range(6)]
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")


@pytest.fixture(autouse=True)
def fail_on_hang() -> Iterator[None]:
    with real_timeout(60):
        yield


class CachedCustomers(Customers):
    name = "customers"
    use_cache = True


class CacheHarness:
    """One API, one clock and one cache folder; each call makes new streams, as a second program would."""

    def __init__(self, clock: VirtualClock, folder: Path) -> None:
        self.api, self.clock, self.folder = Api(tree_responder()), clock, folder

    def customers(self, kind: type[CachedCustomers] = CachedCustomers, **options: Any) -> CachedCustomers:
        return kind(self.api, self.clock, cache_dir=self.folder, **options)

    def orders(self, kind: type[CachedCustomers] = CachedCustomers, **options: Any) -> Orders:
        return Orders(self.api, self.clock, self.customers(kind, **options))

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.name != "salt") if self.folder.exists() else []

    def pop_request_count(self) -> int:
        """The number of requests for customers since the last call."""
        count = len(requested_pages(self.api, "customers"))
        self.api.requested.clear()
        self.api.request_times.clear()
        return count


@pytest.fixture
def harness(virtual_clock: VirtualClock, tmp_path: Path) -> CacheHarness:
    return CacheHarness(virtual_clock, tmp_path / "cache")


async def test_later_child_requests_no_parent(harness: CacheHarness) -> None:
    assert len(await harness.customers().read()) == 6
    assert harness.pop_request_count() == 3

    assert sorted_ids(await harness.orders().read()) == ALL_IDS
    assert sorted_ids(await harness.orders().read()) == ALL_IDS
    assert harness.pop_request_count() == 0


async def test_parent_read_by_one_child_serves_another(harness: CacheHarness) -> None:
    assert sorted_ids(await harness.orders().read()) == ALL_IDS
    assert harness.pop_request_count() == 3

    found = await Invoices(harness.api, harness.clock, harness.customers()).read()

    assert (sorted_ids(found), harness.pop_request_count()) == (ALL_IDS, 0)


@pytest.mark.parametrize("name", ["a/b", "注文" * 60, "q" * 300])
async def test_parent_of_any_name_is_cached(harness: CacheHarness, name: str) -> None:
    kind = subclass(CachedCustomers, name=name)
    first = await harness.orders(kind).read()
    harness.api.requested.clear()
    second = await harness.orders(kind).read()

    assert sorted_ids(second) == sorted_ids(first)
    assert [path for path in harness.api.requested if "orders" not in str(path)] == []


async def test_nothing_is_cached_without_use_cache(harness: CacheHarness) -> None:
    plain = subclass(Customers)(harness.api, harness.clock, cache_dir=harness.folder)

    assert sorted_ids(await Orders(harness.api, harness.clock, plain).read()) == ALL_IDS
    assert sorted_ids(await Orders(harness.api, harness.clock, plain).read()) == ALL_IDS

    assert (harness.pop_request_count(), harness.folder.exists()) == (6, False)


async def test_stream_read_for_itself_is_fetched_and_renews_cache(
    harness: CacheHarness, virtual_clock: VirtualClock
) -> None:
    await harness.orders().read()
    await virtual_clock.sleep(3000)
    assert harness.pop_request_count() == 3

    source = Source([customers := harness.customers(), Orders(harness.api, harness.clock, customers)])
    assert {name: len(rows) for name, rows in (await source.read()).items()} == {"customers": 6, "orders": 6}
    assert harness.pop_request_count() == 3

    await virtual_clock.sleep(3000)
    await harness.orders().read()
    assert harness.pop_request_count() == 0


@pytest.mark.parametrize(("ttl", "seconds", "requests"), [(3600, 3590, 0), (3600, 3610, 3), (5, 4, 0), (5, 6, 3)])
async def test_cache_expires_cache_ttl_after_the_read_began(
    harness: CacheHarness, virtual_clock: VirtualClock, ttl: float, seconds: float, requests: int
) -> None:
    kind = subclass(CachedCustomers, cache_ttl=ttl)
    start = virtual_clock.monotonic()
    await harness.customers(kind).read()
    assert harness.pop_request_count() == 3
    await virtual_clock.sleep(start + seconds - virtual_clock.monotonic())

    assert sorted_ids(await harness.orders(kind).read()) == ALL_IDS

    assert harness.pop_request_count() == requests


async def test_log_dated_in_the_future_is_not_used(harness: CacheHarness, virtual_clock: VirtualClock) -> None:
    harness.clock = _ClockAhead(virtual_clock)  # type: ignore[assignment]
    await harness.customers().read()
    harness.clock = virtual_clock

    await harness.orders().read()

    assert harness.pop_request_count() == 6


class _ClockAhead:
    """A clock whose wall time is 1,000 s ahead."""

    def __init__(self, clock: VirtualClock) -> None:
        self.monotonic, self.sleep, self._wall = clock.monotonic, clock.sleep, clock.wall

    def wall(self) -> float:
        return self._wall() + 1000


@pytest.mark.parametrize("cleared", ["stream", "source"])
async def test_clear_cache_removes_only_the_logs_of_the_streams(harness: CacheHarness, cleared: str) -> None:
    other = subclass(CachedCustomers, name="others", path=lambda self, context: "customers")
    await harness.customers().read()
    await harness.customers(other).read()
    assert (harness.pop_request_count(), len(harness.files)) == (6, 2)

    (harness.customers() if cleared == "stream" else Source([harness.orders(), harness.customers()])).clear_cache()

    assert [path.name.partition("-")[0] for path in harness.files] == ["others"]
    await harness.orders().read()
    assert harness.pop_request_count() == 3


def test_clear_cache_without_cached_log_is_no_error(harness: CacheHarness) -> None:
    harness.customers().clear_cache()

    assert harness.files == []


def us_region(self: Any, context: RequestContext) -> dict[str, Any]:
    return {"region": "us"}


DIFFERENT_STREAMS: dict[str, Callable[[CacheHarness], Orders]] = {
    "token": lambda harness: harness.orders(authenticator=TokenAuthenticator("b")),
    "hook": lambda harness: harness.orders(subclass(CachedCustomers, request_params=us_region)),
    "fields": lambda harness: harness.orders(subclass(CachedCustomers, records_path="data.items")),
    "attribute": lambda harness: _with_attribute(harness, "region", "us"),
    "host": lambda harness: _with_attribute(harness, "url_base", "https://other.test/"),
}


def _with_attribute(harness: CacheHarness, name: str, value: str) -> Orders:
    customers = harness.customers()
    setattr(customers, name, value)
    return Orders(harness.api, harness.clock, customers)


@pytest.mark.parametrize("different_orders", DIFFERENT_STREAMS.values(), ids=DIFFERENT_STREAMS)
async def test_different_stream_does_not_use_the_cached_log(
    harness: CacheHarness, different_orders: Callable[..., Orders]
) -> None:
    await harness.customers().read()
    assert harness.pop_request_count() == 3

    await collect_pages(different_orders(harness).pages(), any_error=True)
    assert harness.pop_request_count() > 0
    await harness.orders().read()
    assert harness.pop_request_count() == 0


async def test_equal_stream_with_same_credential_uses_cached_log(harness: CacheHarness) -> None:
    await harness.customers(authenticator=TokenAuthenticator("a")).read()
    assert harness.pop_request_count() == 3

    await harness.orders(authenticator=TokenAuthenticator("a")).read()

    assert harness.pop_request_count() == 0


async def test_credential_is_not_in_cache_files(harness: CacheHarness) -> None:
    await harness.customers(authenticator=TokenAuthenticator("not-a-real-secret")).read()

    content = b"".join(path.read_bytes() for path in harness.folder.iterdir())

    assert b'{"id":0}' in content
    assert b"not-a-real-secret" not in content
    assert not any(b"not-a-real-secret" in os.fsencode(path) for path in harness.folder.iterdir())


@POSIX
async def test_cache_files_are_private_to_the_user(harness: CacheHarness) -> None:
    before = os.umask(0)
    try:
        await harness.customers().read()
    finally:
        os.umask(before)

    assert stat.S_IMODE(harness.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in harness.folder.iterdir()} == {0o600}


@POSIX
async def test_symlink_as_cache_file_is_not_followed(harness: CacheHarness, tmp_path: Path) -> None:
    await harness.customers().read()
    (path,) = harness.files
    target = tmp_path / "target"
    path.rename(target)
    path.symlink_to(target)
    before = target.read_bytes()
    harness.pop_request_count()

    assert sorted_ids(await harness.orders().read()) == ALL_IDS

    assert harness.pop_request_count() == 3
    assert target.read_bytes() == before


@POSIX
@pytest.mark.parametrize("kind", ["link", "writable"])
async def test_cache_dir_writable_by_others_is_refused(harness: CacheHarness, tmp_path: Path, kind: str) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    if kind == "link":
        harness.folder.symlink_to(tmp_path / "real")
    else:
        harness.folder.mkdir()
        harness.folder.chmod(0o777)

    _, error = await collect_pages(harness.orders().pages(), any_error=True)

    assert "cache_dir" in str(error)
    assert "chmod go-w" in str(error)
    assert os.listdir(tmp_path / "real") == []


@pytest.mark.parametrize("fault", ["flip", "cut", "empty", "longer"])
async def test_corrupted_log_is_renamed_and_parent_fetched_again(
    harness: CacheHarness, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    await harness.customers().read()
    (path,) = harness.files
    good = path.read_bytes()
    middle = len(good) // 2
    corrupted = {
        "flip": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
        "cut": good[:middle],
        "empty": b"",
        "longer": good + b"x",
    }[fault]
    path.write_bytes(corrupted)
    harness.pop_request_count()

    assert sorted_ids(await harness.orders().read()) == ALL_IDS

    assert harness.pop_request_count() == 3
    assert [path.suffix for path in harness.files] == [".damaged", ".parents"]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert path.name in warning
    assert "is renamed to" in warning
    assert sorted_ids(await harness.orders().read()) == ALL_IDS
    assert harness.pop_request_count() == 0


@pytest.mark.parametrize("cause", ["limit", "slices", "failure", "break"])
async def test_incomplete_read_is_not_cached(harness: CacheHarness, cause: str) -> None:
    if cause == "limit":
        await harness.customers().read(limit=6)
    elif cause == "slices":
        await harness.customers().read(slices=[{}])
    elif cause == "break":
        async with harness.customers().pages() as pages:
            async for _ in pages:
                break
    else:
        respond = tree_responder()
        harness.api = Api(lambda request: httpx.Response(410) if "page=1" in str(request.url) else respond(request))
        await collect_pages(harness.orders().pages(), PartialFailure)

    assert harness.files == []


async def test_limited_child_uses_the_cache_but_does_not_fill_it(harness: CacheHarness) -> None:
    await harness.orders().read(limit=6)
    assert (harness.pop_request_count(), harness.files) == (3, [])
    await harness.customers().read()
    assert harness.pop_request_count() == 3

    assert len(await harness.orders().read(limit=2)) == 2

    assert harness.pop_request_count() == 0


async def test_partial_file_is_never_used_and_removed_after_a_day(
    harness: CacheHarness, virtual_clock: VirtualClock
) -> None:
    await harness.customers().read()
    (path,) = harness.files
    partial = path.with_name(f"{path.stem}-0123456789abcdef.partial")
    path.rename(partial)
    os.utime(partial, (virtual_clock.wall() - 3600,) * 2)
    harness.pop_request_count()

    assert sorted_ids(await harness.orders().read()) == ALL_IDS
    assert harness.pop_request_count() == 3
    assert partial in harness.files, "its run may still be active"

    os.utime(partial, (virtual_clock.wall() - 90_000,) * 2)
    await harness.customers().read()
    assert partial not in harness.files


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("moment", ["begin", "end"])
async def test_disk_error_loses_only_the_cache_file(
    harness: CacheHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int, moment: str
) -> None:
    remaining = 0 if moment == "begin" else 1
    append = LogFile.append

    def fail(self: LogFile, data: bytes) -> None:
        nonlocal remaining
        if remaining == 0:
            raise OSError(number, os.strerror(number))
        remaining -= 1
        append(self, data)

    monkeypatch.setattr(LogFile, "append", fail)
    customers = harness.customers()

    found = await Source([customers, Orders(harness.api, harness.clock, customers)]).read()

    assert {name: len(rows) for name, rows in found.items()} == {"customers": 6, "orders": 6}
    assert harness.pop_request_count() == 3
    assert [path for path in harness.files if path.suffix == ".parents"] == []
    (warning,) = [record.getMessage() for record in caplog.records]
    assert os.strerror(number) in warning
    assert "the run continues without" in warning


@POSIX
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root can write everywhere")
async def test_read_only_cache_dir_loses_only_the_cache_file(
    harness: CacheHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.folder.mkdir(mode=0o500)

    assert sorted_ids(await harness.orders().read()) == ALL_IDS

    assert len(caplog.records) == 1


async def test_file_as_cache_dir_loses_only_the_cache_file(
    harness: CacheHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.folder.write_text("not a folder")

    assert sorted_ids(await harness.orders().read()) == ALL_IDS

    assert harness.pop_request_count() == 3
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "the run continues without" in warning


async def test_stream_without_fingerprint_warns_and_is_not_cached(
    harness: CacheHarness, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        customers = harness.customers()
        customers.region = object()  # type: ignore[attr-defined]
        assert sorted_ids(await Orders(harness.api, harness.clock, customers).read()) == ALL_IDS

    assert (harness.pop_request_count(), harness.files) == (6, [])
    assert len(caplog.records) == 2
    assert "customers is not cached" in caplog.records[0].getMessage()
    assert "region" in caplog.records[0].getMessage()


async def test_environment_and_cache_filename_set_the_path(
    virtual_clock: VirtualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUEST_CACHE_PATH", str(tmp_path / "environment"))
    kind = subclass(CachedCustomers, cache_filename="renamed")

    await kind(Api(tree_responder()), virtual_clock).read()

    (path,) = (tmp_path / "environment").glob("*.parents")
    assert path.name.startswith("renamed-")
