"""How is a MockApi served from the command line? `python -m asyncstreams.testing --help` says it."""

from __future__ import annotations

import argparse
import asyncio
import difflib
import importlib.util
import re
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, get_args

from ..errors import ConfigError
from .mock_api import ApiKeyAuth, BasicAuth, BearerAuth, MockApi, OAuth2, Quota, Resource
from .mock_api.auth import Auth
from .mock_api.process import loop_factory
from .mock_api.quota import Dialect
from .mock_api.resource import Format, Latency, Paging
from .mock_api.shop import shop_faults, shop_resources

_ABOUT = "Serve an API to try streams on: by default a shop, without authentication, quota or faults."
_MORE = """
examples:
  python -m asyncstreams.testing
  python -m asyncstreams.testing --auth oauth2 --quota 100/10 --faults 2% --latency 20ms-80ms
  python -m asyncstreams.testing --resources customers=1000:page,orders=5000:cursor,events=20000:ndjson

A resource is NAME=COUNT, and after a colon how it pages (page, offset, cursor, link, next_url,
continue, none) or its format (ndjson, csv). GET / describes the API, GET /_mock/counts tells what it
has served; so does Ctrl-C.
"""
_AUTHS: dict[str, Auth | None] = {
    "none": None,
    "token": BearerAuth("secret"),
    "basic": BasicAuth("user", "secret"),
    "key": ApiKeyAuth("secret"),
    "oauth2": OAuth2(expires_in=60),
}
_UNITS = {"ms": 0.001, "s": 1.0, "": 1.0}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM; 0. Raises SystemExit(2) for arguments that make no sense."""
    parser = _parser()
    chosen, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error(_unknown(unknown[0], parser))
    if chosen.uvloop and importlib.util.find_spec("uvloop") is None:
        parser.error("--uvloop: uvloop is not installed; pip install uvloop")
    try:
        api = MockApi(
            *(chosen.resources or shop_resources(chosen.scale)),
            auth=_AUTHS[chosen.auth],
            quota=_quota(chosen),
            latency=chosen.latency,
            faults=shop_faults(chosen.faults),
            seed=chosen.seed,
            gzip=chosen.gzip,
            host=chosen.host,
            port=chosen.port,
        )
        with asyncio.Runner(loop_factory=loop_factory(chosen.uvloop)) as runner:
            runner.run(_serve(api))
    except ConfigError as error:
        hint = (error.hint or "").replace("port=0", "--port 0")
        parser.error(f"{error.message}{f' ({hint})' if hint else ''}")
    print(f"\n{api.counts}")
    return 0


async def _serve(api: MockApi) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def end(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(ended.set)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    async with api:
        print(_welcome(api), flush=True)
        await ended.wait()


def _welcome(api: MockApi) -> str:
    """What there is, a command that asks for it, and a stream that reads it."""
    first = api.resources[0].name
    width = max(len(api.path(resource.name)) for resource in api.resources) + len(api.url)
    rows = [f"  {api.url + api.path(one.name):<{width}}  {_told(one)}" for one in api.resources]
    name = re.sub(r"[^0-9A-Za-z_]", "_", first)
    return "\n".join(
        [
            f"Serving {api.url}, until Ctrl-C.",
            "",
            *rows,
            "",
            "A page of it:",
            "",
            api.curl(first),
            "",
            "All of it, as a file of Python:",
            "",
            "import asyncio",
            api.stream_source(first).rstrip(),
            f'print(len(asyncio.run({name}.read())), "records")',
        ]
    )


def _told(resource: Resource) -> str:
    low, high = resource.count if isinstance(resource.count, tuple) else (resource.count, resource.count)
    number = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    paging = f"in one {resource.format} export" if resource.style == "none" else f"paged by {resource.style}"
    return f"{number} records{' each' if resource.parent else ''}, {'403' if resource.forbidden else paging}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m asyncstreams.testing",
        usage="%(prog)s [options]",
        description=_ABOUT,
        epilog=_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="where to listen (127.0.0.1)")
    add("--port", type=_number("port", 0, 65_535), default=8_000, help="0 takes one that is free (8000)")
    add("--seed", type=_number("seed", 0), default=1, help="the same seed, the same records and faults (1)")
    add("--scale", type=_positive, default=1.0, help="sizes of the shop's resources, by this factor (1)")
    add("--resources", type=_resources, metavar="LIST", help="others than the shop's; see below")
    add("--auth", choices=_AUTHS, default="none", help="what is asked of clients (none); credentials are printed")
    add("--quota", type=_rate, metavar="N/SECONDS", help="so many requests in so many seconds: 100/10")
    add("--quota-headers", choices=get_args(Dialect), default="x-ratelimit", help="how it is told (x-ratelimit)")
    add("--quota-mode", choices=("refuse", "queue"), default="refuse", help="429 beyond it, or late answers (refuse)")
    add("--latency", type=_latency, default=0.0, metavar="TIME", help="before each answer: 20ms, 0.5s, 20ms-80ms (0)")
    add("--faults", type=_share, default=0.0, metavar="SHARE", help="503s, resets and cut bodies: 2%% or 0.02 (0)")
    add("--gzip", action="store_true", help="compress for clients that accept it")
    add("--uvloop", action="store_true", help="serve on uvloop, which must be installed")
    return parser


def _unknown(option: str, parser: argparse.ArgumentParser) -> str:
    known = [name for action in parser._actions for name in action.option_strings]  # pyright: ignore[reportPrivateUsage]  # there is no other way to them
    close = difflib.get_close_matches(option.partition("=")[0], known, 1)
    return f"there is no {option}{f'; is it {close[0]}?' if close else ', see --help'}"


def _quota(chosen: argparse.Namespace) -> Quota | None:
    if chosen.quota is None:
        return None
    limit, per = chosen.quota
    return Quota(limit, per, headers=chosen.quota_headers, mode=chosen.quota_mode)


def _number(what: str, least: int, most: int | None = None) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            upto = "" if most is None else f" to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}: a whole number from {least}{upto}")
        return int(text)

    return read


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def _rate(text: str) -> tuple[int, float]:
    found = re.fullmatch(r"([1-9]\d*)/(\d+(?:\.\d+)?)s?", text)
    if found is None or float(found[2]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no quota: write 100/10 for 100 requests in 10 seconds")
    return int(found[1]), float(found[2])


def _latency(text: str) -> Latency:
    found = [re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|)", part) for part in text.split("-")]
    times = [float(one[1]) * _UNITS[one[2]] for one in found if one is not None]
    if len(times) != len(found) or len(times) > 2 or times != sorted(times):
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 20ms, 0.5s, or 20ms-80ms for between the two")
    return times[0] if len(times) == 1 else (times[0], times[1])


def _share(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text)
    share = float(found[1]) / (100 if found[2] else 1) if found else -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: write 2% or 0.02")
    return share


def _resources(text: str) -> list[Resource]:
    return [_resource(part.strip()) for part in text.split(",")]


def _resource(text: str) -> Resource:
    found = re.fullmatch(r"([^=:]+)=([\d_]+)(?::(\w+))?", text)
    kind = found[3] if found else None
    if found is None or (kind is not None and kind not in (*get_args(Paging), *get_args(Format))):
        known = ", ".join((*get_args(Paging), "ndjson", "csv"))
        raise argparse.ArgumentTypeError(f"{text!r} is no resource: write orders=5000:cursor; after the colon: {known}")
    try:
        name, count = found[1], int(found[2])
        chosen: Any = kind
        if kind in get_args(Format):
            return Resource(name, count, format=chosen)
        return Resource(name, count, paging=chosen, total=kind in (None, "page", "offset"))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(error.message) from error


if __name__ == "__main__":
    sys.exit(main())
