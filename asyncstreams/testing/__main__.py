"""Command line that serves a MockApi: `python -m asyncstreams.testing`."""

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
from .mock_api.mock_auth import Auth
from .mock_api.process import loop_factory
from .mock_api.quota import HeaderDialect
from .mock_api.resource import Format, Latency, Paging
from .mock_api.shop import shop_faults, shop_resources

_DESCRIPTION = "Serve a mock API on this machine. The default is a shop without authentication, quota or faults."
_EPILOG = """
examples:
  python -m asyncstreams.testing
  python -m asyncstreams.testing --auth oauth2 --quota 100/10 --faults 2% --latency 20ms-80ms
  python -m asyncstreams.testing --resources customers=1000:page,orders=5000:cursor,events=20000:ndjson

A resource is NAME=COUNT or NAME=COUNT:KIND. KIND is its paging (page, offset, cursor, link, next_url,
continue, none) or its format (ndjson, csv). GET / describes the API. GET /_mock/counts returns counts of
what was served; they are also printed when the server stops.
"""
_AUTH_CHOICES: dict[str, Auth | None] = {
    "none": None,
    "token": BearerAuth("secret"),
    "basic": BasicAuth("user", "secret"),
    "key": ApiKeyAuth("secret"),
    "oauth2": OAuth2(expires_in=60),
}
_SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "": 1.0}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM, then print the counts and return 0. Invalid arguments raise SystemExit(2)."""
    parser = _build_parser()
    chosen, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error(_unknown_option_message(unknown[0], parser))
    if chosen.uvloop and importlib.util.find_spec("uvloop") is None:
        parser.error("--uvloop: uvloop is not installed (pip install uvloop)")
    try:
        api = MockApi(
            *(chosen.resources or shop_resources(chosen.scale)),
            auth=_AUTH_CHOICES[chosen.auth],
            quota=_build_quota(chosen),
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
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stopped.set)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    async with api:
        print(_startup_text(api), flush=True)
        await stopped.wait()


def _startup_text(api: MockApi) -> str:
    """The resources, a curl command for the first one, and a Python program that reads it."""
    first = api.resources[0].name
    width = max(len(api.path(resource.name)) for resource in api.resources) + len(api.url)
    rows = [f"  {api.url + api.path(resource.name):<{width}}  {_summary(resource)}" for resource in api.resources]
    variable = re.sub(r"[^0-9A-Za-z_]", "_", first)
    return "\n".join(
        [
            f"Serving {api.url} (Ctrl-C stops the server).",
            "",
            *rows,
            "",
            f"Fetch one page of {first}:",
            "",
            api.curl(first),
            "",
            f"Read all {first} with this Python program:",
            "",
            "import asyncio",
            api.stream_source(first).rstrip(),
            f'print(len(asyncio.run({variable}.read())), "records")',
        ]
    )


def _summary(resource: Resource) -> str:
    low, high = resource.count if isinstance(resource.count, tuple) else (resource.count, resource.count)
    number = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    records = f"{number} records{f' per parent in {resource.parent}' if resource.parent else ''}"
    if resource.forbidden:
        return f"{records}, answers 403 Forbidden"
    if resource.layout.effective_paging == "none":
        return f"{records}, one {resource.layout.format} response"
    return f"{records}, paging: {resource.layout.effective_paging}"


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m asyncstreams.testing",
        usage="%(prog)s [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=_int_type("port", 0, 65_535), default=8_000, help="0 uses any free port (default: 8000)")
    add("--seed", type=_int_type("seed", 0), default=1, help="equal seeds give equal records and faults (default: 1)")
    add("--scale", type=_positive_float, default=1.0, help="factor for the number of records of the shop (default: 1)")
    add("--resources", type=_resources_type, metavar="LIST", help="resources in place of the shop; see below")
    add(
        "--auth",
        choices=_AUTH_CHOICES,
        default="none",
        help="authentication (default: none); the credentials are printed",
    )
    add("--quota", type=_quota_type, metavar="N/SECONDS", help="100/10 allows 100 requests in 10 seconds")
    add(
        "--quota-headers",
        choices=get_args(HeaderDialect),
        default="x-ratelimit",
        help="headers that report the quota (default: x-ratelimit)",
    )
    add(
        "--quota-mode",
        choices=("refuse", "queue"),
        default="refuse",
        help="beyond the quota: answer 429, or delay responses (default: refuse)",
    )
    add(
        "--latency",
        type=_latency_type,
        default=0.0,
        metavar="TIME",
        help="delay before each response: 20ms, 0.5s, 20ms-80ms (default: 0)",
    )
    add(
        "--faults",
        type=_share_type,
        default=0.0,
        metavar="SHARE",
        help="share of 503s, resets and cut bodies: 2%% or 0.02 (default: 0)",
    )
    add("--gzip", action="store_true", help="compress responses for clients that accept it")
    add("--uvloop", action="store_true", help="serve on uvloop (pip install uvloop)")
    return parser


def _unknown_option_message(option: str, parser: argparse.ArgumentParser) -> str:
    known = [name for action in parser._actions for name in action.option_strings]  # pyright: ignore[reportPrivateUsage]  # argparse has no public list of options
    close = difflib.get_close_matches(option.partition("=")[0], known, 1)
    return f"unknown option {option} ({f'did you mean {close[0]}?' if close else 'see --help'})"


def _build_quota(chosen: argparse.Namespace) -> Quota | None:
    if chosen.quota is None:
        return None
    limit, per = chosen.quota
    return Quota(limit, per, headers=chosen.quota_headers, mode=chosen.quota_mode)


def _int_type(name: str, minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum or (maximum is not None and int(text) > maximum):
            bounds = f"from {minimum}" if maximum is None else f"from {minimum} to {maximum}"
            raise argparse.ArgumentTypeError(f"invalid {name} {text!r}: use a whole number {bounds}")
        return int(text)

    return read


def _positive_float(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"invalid number {text!r}: use a number above 0")
    return number


def _quota_type(text: str) -> tuple[int, float]:
    match = re.fullmatch(r"([1-9]\d*)/(\d+(?:\.\d+)?)s?", text)
    if match is None or float(match[2]) == 0:
        raise argparse.ArgumentTypeError(f"invalid quota {text!r}: write 100/10 for 100 requests in 10 seconds")
    return int(match[1]), float(match[2])


def _latency_type(text: str) -> Latency:
    matches = [re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|)", part) for part in text.split("-")]
    times = [float(match[1]) * _SECONDS_PER_UNIT[match[2]] for match in matches if match is not None]
    if len(times) != len(matches) or len(times) > 2 or times != sorted(times):
        raise argparse.ArgumentTypeError(f"invalid latency {text!r}: write 20ms, 0.5s, or 20ms-80ms for a range")
    return times[0] if len(times) == 1 else (times[0], times[1])


def _share_type(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text)
    share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"invalid share {text!r}: write 2% or 0.02")
    return share


def _resources_type(text: str) -> list[Resource]:
    return [_parse_resource(part.strip()) for part in text.split(",")]


def _parse_resource(text: str) -> Resource:
    match = re.fullmatch(r"([^=:]+)=([\d_]+)(?::(\w+))?", text)
    kind = match[3] if match else None
    if match is None or (kind is not None and kind not in (*get_args(Paging), *get_args(Format))):
        kinds = ", ".join((*get_args(Paging), "ndjson", "csv"))
        raise argparse.ArgumentTypeError(
            f"invalid resource {text!r}: write orders=5000:cursor; after the colon: {kinds}"
        )
    try:
        name, count = match[1], int(match[2])
        chosen: Any = kind
        if kind in get_args(Format):
            return Resource(name, count, format=chosen)
        return Resource(name, count, paging=chosen, total=kind in (None, "page", "offset"))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(error.message) from error


if __name__ == "__main__":
    sys.exit(main())
