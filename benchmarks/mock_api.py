"""How fast is MockApi: requests of 20 KB pages per second, on one core, as wrk counts them.

The server runs in a process of its own that is pinned to one core, wrk on another. wrk asks for 50
different pages in turn. What is measured in turn, in each round: the fast path, and pages behind a
bearer token and a quota whose headers change with every answer; both on asyncio and on uvloop,
where that is installed.
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
  print(string.format("FOUND %%d %%d %%d %%d", summary.requests, summary.duration, summary.bytes,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


def contenders() -> Iterator[tuple[str, bool, dict[str, object]]]:
    guarded: dict[str, object] = {"auth": BearerAuth("secret"), "quota": Quota(10**9, per=3_600)}
    loops = [False, True] if importlib.util.find_spec("uvloop") else [False]
    for uvloop in loops:
        name = "uvloop" if uvloop else "asyncio"
        yield f"{name}, fast path", uvloop, {}
        yield f"{name}, token and quota", uvloop, guarded


@contextmanager
def served(uvloop: bool, settings: dict[str, object], core: int | None) -> Iterator[MockApi]:
    customers = Resource("customers", PAGES * PAGE_SIZE, page_size=PAGE_SIZE)
    with MockApi(customers, process=True, uvloop=uvloop, **settings) as api:
        if core is not None:
            os.sched_setaffinity(api.pid, {core})
        yield api


def measure(api: MockApi, script: Path, seconds: float, connections: int, core: int | None) -> tuple[float, float]:
    """Requests and MB a second. Exits when an answer is not a 200, or wrk and MockApi do not agree."""
    before = api.counts.requests
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    command = [*pinned, "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script)]
    command += ["-H", "Authorization: Bearer secret", api.url]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"FOUND (\d+) (\d+) (\d+) (\d+)", told)
    if found is None or int(found[4]):
        raise SystemExit(f"wrk failed:\n{told}")
    requests, microseconds, size, _ = map(int, found.groups())
    served = api.counts.requests - before
    # What was under way when wrk left, MockApi has counted and wrk has not.
    if not requests <= served <= requests + 2 * connections:
        raise SystemExit(f"wrk counted {requests} requests, MockApi {served}")
    return requests / microseconds * 1e6, size / microseconds


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=4, help="of one measurement (default 4)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--connections", type=int, default=16, help="that wrk keeps open (default 16)")
    chosen = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is needed: apt install wrk, brew install wrk, or https://github.com/wg/wrk")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    here, there = (cores[0], cores[-1]) if len(cores) > 1 and shutil.which("taskset") else (None, None)
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "pages.lua"
        script.write_text(SCRIPT % PAGES)
        for number in range(chosen.rounds + 1):
            for name, uvloop, settings in contenders():
                with served(uvloop, settings, there) as api:
                    figures = measure(api, script, chosen.seconds, chosen.connections, here)
                if number:  # the first round warms up
                    found.setdefault(name, []).append(figures)
    uvloop_version = f", uvloop {version('uvloop')}" if importlib.util.find_spec("uvloop") else ""
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.split(" [")[0]
    pinned = "server and wrk each on a core of its own" if here is not None else "not pinned"
    print(f"{processor()}, {len(cores) or '?'} cores, {pinned}; Python {platform.python_version()}{uvloop_version}")
    print(f"{wrk}, {chosen.connections} connections; {chosen.rounds} rounds of {chosen.seconds:g} s; medians\n")
    print("| MockApi on | requests/s | spread | MB/s | KB an answer |\n|---|---|---|---|---|")
    for name, figures in found.items():
        rates, sizes = [rate for rate, _ in figures], [size for _, size in figures]
        rate, size = statistics.median(rates), statistics.median(sizes)
        spread = f"{min(rates):,.0f} - {max(rates):,.0f}"
        print(f"| {name} | {rate:,.0f} | {spread} | {size:,.0f} | {size / rate * 1e3:.1f} |")


if __name__ == "__main__":
    main()
