"""Is what a parent says kept between runs: for those who may have it, as long as it holds, and never half?"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_api import Api, subclass, collect_pages, real_timeout
from tree_api import Customers, Invoices, Orders, asked_of, ids, tree

from asyncstreams import RequestContext, Source, TokenAuthenticator
from asyncstreams.errors import PartialFailure
from asyncstreams.parents.log_file import LogFile
from asyncstreams.testing import VirtualClock

ALL = [f"{n}-0" for n in range(6)]
POSIX = pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")


@pytest.fixture(autouse=True)
def not_for_ever() -> Iterator[None]:
    with real_timeout(60):
        yield


class Kept(Customers):
    name = "customers"
    use_cache = True


class World:
    """One API, one clock and one folder; each call makes new streams, as another program would."""

    def __init__(self, clock: VirtualClock, folder: Path) -> None:
        self.api, self.clock, self.folder = Api(tree()), clock, folder

    def customers(self, kind: type[Kept] = Kept, **options: Any) -> Kept:
        return kind(self.api, self.clock, cache_dir=self.folder, **options)

    def orders(self, kind: type[Kept] = Kept, **options: Any) -> Orders:
        return Orders(self.api, self.clock, self.customers(kind, **options))

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.name != "salt") if self.folder.exists() else []

    @property
    def asked(self) -> int:
        """Requests for customers since this was asked last."""
        count = len(asked_of(self.api, "customers"))
        self.api.requested.clear()
        self.api.request_times.clear()
        return count


@pytest.fixture
def world(virtual_clock: VirtualClock, tmp_path: Path) -> World:
    return World(virtual_clock, tmp_path / "cache")


async def test_a_child_that_is_read_later_asks_for_no_parent(world: World) -> None:
    assert len(await world.customers().read()) == 6
    assert world.asked == 3

    assert ids(await world.orders().read()) == ALL
    assert ids(await world.orders().read()) == ALL
    assert world.asked == 0


async def test_what_one_child_has_read_serves_another(world: World) -> None:
    assert ids(await world.orders().read()) == ALL
    assert world.asked == 3

    found = await Invoices(world.api, world.clock, world.customers()).read()

    assert (ids(found), world.asked) == (ALL, 0)


async def test_without_use_cache_nothing_is_kept(world: World) -> None:
    plain = subclass(Customers)(world.api, world.clock, cache_dir=world.folder)

    assert ids(await Orders(world.api, world.clock, plain).read()) == ALL
    assert ids(await Orders(world.api, world.clock, plain).read()) == ALL

    assert (world.asked, world.folder.exists()) == (6, False)


async def test_a_stream_that_is_read_for_itself_is_fetched_and_what_is_kept_renewed(
    world: World, virtual_clock: VirtualClock
) -> None:
    await world.orders().read()
    await virtual_clock.sleep(3000)
    assert world.asked == 3

    source = Source([customers := world.customers(), Orders(world.api, world.clock, customers)])
    assert {name: len(rows) for name, rows in (await source.read()).items()} == {"customers": 6, "orders": 6}
    assert world.asked == 3

    await virtual_clock.sleep(3000)
    await world.orders().read()
    assert world.asked == 0


@pytest.mark.parametrize(("ttl", "seconds", "asked"), [(3600, 3590, 0), (3600, 3610, 3), (5, 4, 0), (5, 6, 3)])
async def test_it_holds_for_cache_ttl_from_when_it_was_asked_for(
    world: World, virtual_clock: VirtualClock, ttl: float, seconds: float, asked: int
) -> None:
    kind = subclass(Kept, cache_ttl=ttl)
    begin = virtual_clock.monotonic()
    await world.customers(kind).read()
    assert world.asked == 3
    await virtual_clock.sleep(begin + seconds - virtual_clock.monotonic())

    assert ids(await world.orders(kind).read()) == ALL

    assert world.asked == asked


async def test_what_is_from_the_future_is_not_believed(world: World, virtual_clock: VirtualClock) -> None:
    world.clock = _Ahead(virtual_clock)  # type: ignore[assignment]
    await world.customers().read()
    world.clock = virtual_clock

    await world.orders().read()

    assert world.asked == 6


class _Ahead:
    """A clock that somebody has set wrongly."""

    def __init__(self, clock: VirtualClock) -> None:
        self.monotonic, self.sleep, self._wall = clock.monotonic, clock.sleep, clock.wall

    def wall(self) -> float:
        return self._wall() + 1000


@pytest.mark.parametrize("of", ["stream", "source"])
async def test_clear_cache_removes_it_and_nothing_else(world: World, of: str) -> None:
    other = subclass(Kept, name="others", path=lambda self, context: "customers")
    await world.customers().read()
    await world.customers(other).read()
    assert (world.asked, len(world.files)) == (6, 2)

    (world.customers() if of == "stream" else Source([world.orders(), world.customers()])).clear_cache()

    assert [path.name.partition("-")[0] for path in world.files] == ["others"]
    await world.orders().read()
    assert world.asked == 3


def test_clear_cache_where_nothing_is_kept_is_no_error(world: World) -> None:
    world.customers().clear_cache()

    assert world.files == []


def other_region(self: Any, context: RequestContext) -> dict[str, Any]:
    return {"region": "us"}


OTHERS: dict[str, Callable[[World], Orders]] = {
    "token": lambda world: world.orders(authenticator=TokenAuthenticator("b")),
    "hook": lambda world: world.orders(subclass(Kept, request_params=other_region)),
    "fields": lambda world: world.orders(subclass(Kept, records_path="data.items")),
    "attribute": lambda world: _with(world, "region", "us"),
    "host": lambda world: _with(world, "url_base", "https://other.test/"),
}


def _with(world: World, name: str, value: str) -> Orders:
    customers = world.customers()
    setattr(customers, name, value)
    return Orders(world.api, world.clock, customers)


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
async def test_another_tenant_parameter_or_version_gets_none_of_it(world: World, other: Callable[..., Orders]) -> None:
    await world.customers().read()
    assert world.asked == 3

    await collect_pages(other(world).pages(), any_error=True)
    assert world.asked > 0
    await world.orders().read()
    assert world.asked == 0


async def test_the_same_credential_in_another_program_finds_it(world: World) -> None:
    await world.customers(authenticator=TokenAuthenticator("a")).read()
    assert world.asked == 3

    await world.orders(authenticator=TokenAuthenticator("a")).read()

    assert world.asked == 0


async def test_nothing_that_was_sent_or_is_secret_is_in_the_files(world: World) -> None:
    await world.customers(authenticator=TokenAuthenticator("not-a-real-secret")).read()

    content = b"".join(path.read_bytes() for path in world.folder.iterdir())

    assert b'{"id":0}' in content
    assert b"not-a-real-secret" not in content
    assert not any(b"not-a-real-secret" in os.fsencode(path) for path in world.folder.iterdir())


@POSIX
async def test_files_are_for_the_user_alone(world: World) -> None:
    before = os.umask(0)
    try:
        await world.customers().read()
    finally:
        os.umask(before)

    assert stat.S_IMODE(world.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in world.folder.iterdir()} == {0o600}


@POSIX
async def test_a_link_in_place_of_the_file_is_neither_read_nor_written_through(world: World, tmp_path: Path) -> None:
    await world.customers().read()
    (path,) = world.files
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    world.asked  # noqa: B018  # from here on

    assert ids(await world.orders().read()) == ALL

    assert world.asked == 3
    assert elsewhere.read_bytes() == before


@POSIX
@pytest.mark.parametrize("how", ["link", "writable"])
async def test_a_folder_that_others_can_reach_is_refused(world: World, tmp_path: Path, how: str) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    if how == "link":
        world.folder.symlink_to(tmp_path / "real")
    else:
        world.folder.mkdir()
        world.folder.chmod(0o777)

    _, error = await collect_pages(world.orders().pages(), any_error=True)

    assert "cache_dir" in str(error)
    assert "chmod go-w" in str(error)
    assert os.listdir(tmp_path / "real") == []


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "longer"])
async def test_a_damaged_file_is_set_aside_and_the_parent_fetched_again(
    world: World, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    await world.customers().read()
    (path,) = world.files
    good = path.read_bytes()
    middle = len(good) // 2
    bad = {
        "flip": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
        "cut": good[:middle],
        "empty": b"",
        "longer": good + b"x",
    }[how]
    path.write_bytes(bad)
    world.asked  # noqa: B018  # from here on

    assert ids(await world.orders().read()) == ALL

    assert world.asked == 3
    assert [path.suffix for path in world.files] == [".damaged", ".parents"]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert path.name in warning
    assert "set aside" in warning
    assert ids(await world.orders().read()) == ALL
    assert world.asked == 0


@pytest.mark.parametrize("by", ["limit", "slices", "failure", "leaving"])
async def test_what_is_not_whole_is_not_kept(world: World, by: str) -> None:
    if by == "limit":
        await world.customers().read(limit=6)
    elif by == "slices":
        await world.customers().read(slices=[{}])
    elif by == "leaving":
        async with world.customers().pages() as pages:
            async for _ in pages:
                break
    else:
        world.api = Api(lambda request: httpx.Response(410) if "page=1" in str(request.url) else tree()(request))
        await collect_pages(world.orders().pages(), PartialFailure)

    assert world.files == []


async def test_a_limit_of_the_child_keeps_nothing_and_uses_what_is_kept(world: World) -> None:
    await world.orders().read(limit=6)
    assert (world.asked, world.files) == (3, [])
    await world.customers().read()
    assert world.asked == 3

    assert len(await world.orders().read(limit=2)) == 2

    assert world.asked == 0


async def test_the_partial_file_of_a_run_that_is_gone_never_counts_and_is_tidied_up(
    world: World, virtual_clock: VirtualClock
) -> None:
    await world.customers().read()
    (path,) = world.files
    partial = path.with_name(f"{path.stem}-0123456789abcdef.partial")
    path.rename(partial)
    os.utime(partial, (virtual_clock.wall() - 3600,) * 2)
    world.asked  # noqa: B018  # from here on

    assert ids(await world.orders().read()) == ALL
    assert world.asked == 3
    assert partial in world.files, "its run may be at work yet"

    os.utime(partial, (virtual_clock.wall() - 90_000,) * 2)
    await world.customers().read()
    assert partial not in world.files


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("at", ["begin", "end"])
async def test_a_disk_that_fails_costs_the_file_and_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int, at: str
) -> None:
    left = 0 if at == "begin" else 1
    append = LogFile.append

    def failing(self: LogFile, data: bytes) -> None:
        nonlocal left
        if left == 0:
            raise OSError(number, os.strerror(number))
        left -= 1
        append(self, data)

    monkeypatch.setattr(LogFile, "append", failing)
    customers = world.customers()

    found = await Source([customers, Orders(world.api, world.clock, customers)]).read()

    assert {name: len(rows) for name, rows in found.items()} == {"customers": 6, "orders": 6}
    assert world.asked == 3
    assert [path for path in world.files if path.suffix == ".parents"] == []
    (warning,) = [record.getMessage() for record in caplog.records]
    assert os.strerror(number) in warning
    assert "the run continues without" in warning


@POSIX
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
async def test_a_folder_that_cannot_be_written_costs_the_file_and_nothing_else(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.folder.mkdir(mode=0o500)

    assert ids(await world.orders().read()) == ALL

    assert len(caplog.records) == 1


async def test_a_file_in_place_of_the_folder_costs_the_file_and_nothing_else(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.folder.write_text("not a folder")

    assert ids(await world.orders().read()) == ALL

    assert world.asked == 3
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "the run continues without" in warning


async def test_what_nobody_can_tell_apart_is_not_kept_and_a_warning_says_so(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        customers = world.customers()
        customers.region = object()  # type: ignore[attr-defined]
        assert ids(await Orders(world.api, world.clock, customers).read()) == ALL

    assert (world.asked, world.files) == (6, [])
    assert len(caplog.records) == 2
    assert "customers is not cached" in caplog.records[0].getMessage()
    assert "region" in caplog.records[0].getMessage()


async def test_the_environment_and_cache_filename_say_where_it_is_kept(
    virtual_clock: VirtualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUEST_CACHE_PATH", str(tmp_path / "told"))
    kind = subclass(Kept, cache_filename="everyone")

    await kind(Api(tree()), virtual_clock).read()

    (path,) = (tmp_path / "told").glob("*.parents")
    assert path.name.startswith("everyone-")
