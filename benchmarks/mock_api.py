"""Throughput of MockApi on one core: 20 KB pages per second, as counted by wrk.

The server runs in its own process, pinned to one core; wrk runs on another and cycles through 50 pages.
Each round measures cached responses, and responses with a bearer token and a quota, whose headers change
every time. Both run on asyncio and, if it is installed, on uvloop.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from asyncstreams.testing import BearerAuth, MockApi, Quota, Resource

PAGES = 50
PAGE_SIZE = 88
SCRIPT = """
local requests, turn = {}, 0
init = function(args)
  for page = 1, %d do requests[page] = wrk.format("GET", "/customers?page=" .. page) end
end
request = function()
  turn = turn %% #requests + 1
  return requests[turn]
end
done = function(summary, latency)
  local errors = summary.errors
  print(string.format("RESULT %%d %%d %%d %%d", summary.requests, summary.duration, summary.bytes,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


def contenders() -> Iterator[tuple[str, bool, dict[str, object]]]:
    token_and_quota: dict[str, object] = {"auth": BearerAuth("secret"), "quota": Quota(10**9, per=3_600)}
    loops = [False, True] if importlib.util.find_spec("uvloop") else [False]
    for uvloop in loops:
        name = "uvloop" if uvloop else "asyncio"
        yield f"{name}, cached responses", uvloop, {}
        yield f"{name}, token and quota", uvloop, token_and_quota


@contextmanager
def serve(uvloop: bool, settings: dict[str, object], core: int | None) -> Iterator[MockApi]:
    customers = Resource("customers", PAGES * PAGE_SIZE, page_size=PAGE_SIZE)
    with MockApi(customers, process=True, uvloop=uvloop, **settings) as api:
        if core is not None:
            os.sched_setaffinity(api.pid, {core})
        yield api


def measure(api: MockApi, script: Path, seconds: float, connections: int, core: int | None) -> tuple[float, float]:
    """Requests and MB per second. Raises SystemExit for failed responses or if the counts of wrk and MockApi differ."""
    before = api.counts.requests
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    command = [*pinned, "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script)]
    command += ["-H", "Authorization: Bearer secret", api.url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+)", output)
    if match is None or int(match[4]):
        raise SystemExit(f"wrk failed:\n{output}")
    requests, microseconds, size, _ = map(int, match.groups())
    served = api.counts.requests - before
    # MockApi counts the requests that are in flight when wrk stops; wrk does not.
    if not requests <= served <= requests + 2 * connections:
        raise SystemExit(f"wrk counted {requests} requests, MockApi {served}")
    return requests / microseconds * 1e6, size / microseconds


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=4, help="duration of each measurement (default: 4)")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (default: 5)")
    parser.add_argument("--connections", type=int, default=16, help="connections of wrk (default: 16)")
    args = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt install wrk, brew install wrk, or https://github.com/wg/wrk")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    client_core, server_core = (cores[0], cores[-1]) if len(cores) > 1 and shutil.which("taskset") else (None, None)
    measurements: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "pages.lua"
        script.write_text(SCRIPT % PAGES)
        for number in range(args.rounds + 1):
            for name, uvloop, settings in contenders():
                with serve(uvloop, settings, server_core) as api:
                    measurement = measure(api, script, args.seconds, args.connections, client_core)
                if number:  # the first round warms up
                    measurements.setdefault(name, []).append(measurement)
    uvloop_version = f", uvloop {version('uvloop')}" if importlib.util.find_spec("uvloop") else ""
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.split(" [")[0]
    pinned = "server and wrk on separate cores" if client_core is not None else "not pinned"
    print(
        f"{processor_name()}, {len(cores) or '?'} cores, {pinned}; Python {platform.python_version()}{uvloop_version}"
    )
    print(f"{wrk}, {args.connections} connections; {args.rounds} rounds of {args.seconds:g} s; medians\n")
    print("| MockApi on | requests/s | spread | MB/s | KB per response |\n|---|---|---|---|---|")
    for name, pairs in measurements.items():
        rates, sizes = [rate for rate, _ in pairs], [size for _, size in pairs]
        rate, size = statistics.median(rates), statistics.median(sizes)
        spread = f"{min(rates):,.0f} - {max(rates):,.0f}"
        print(f"| {name} | {rate:,.0f} | {spread} | {size:,.0f} | {size / rate * 1e3:.1f} |")


if __name__ == "__main__":
    main()
