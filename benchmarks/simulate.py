"""Does the governor find each kind of server's limit: simulated servers and workers, in virtual time?

Prints a table: what each case came to over all seeds, beside its aim. Exits with 1 where one is missed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor

from cases import CASES, Figure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(CASES)}; all of them by default")
    parser.add_argument("--seeds", type=int, default=20, help="runs of each case (20)")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(CASES):
        parser.error(f"there is no case {', '.join(sorted(unknown))}: known are {', '.join(CASES)}")
    if arguments.seeds < 1:
        parser.error("--seeds: one at least")
    missed = 0
    print(f"Median and range of {arguments.seeds} seeds.\n")
    print("| server | figure | median | range | aim | |\n|---|---|---|---|---|---|")
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for name in arguments.cases or CASES:
            runs = list(pool.map(run, [name] * arguments.seeds, range(arguments.seeds)))
            for row, figures in enumerate(zip(*runs, strict=True)):
                missed += not all(figure.is_reached for figure in figures)
                print(line(CASES[name][1] if not row else "", figures), flush=True)
    if missed:
        print(f"\n{missed} missed by one seed at least")
    return 1 if missed else 0


def run(name: str, seed: int) -> list[Figure]:
    """What a case comes to with this seed."""
    return CASES[name][0](seed, 1.0)


def line(server: str, figures: tuple[Figure, ...]) -> str:
    values = [figure.value for figure in figures]
    middle = statistics.median(values)
    verdict = "reached" if all(figure.is_reached for figure in figures) else "**missed**"
    spread = f"{shown(min(values))} to {shown(max(values))}"
    return f"| {server} | {figures[0].name} | {shown(middle)} | {spread} | {figures[0].aim} | {verdict} |"


def shown(value: float) -> str:
    return (
        f"{value:.0f}"
        if value == int(value) or abs(value) >= 100
        else f"{value:.4f}"
        if value < 0.01
        else f"{value:.3f}"
    )


if __name__ == "__main__":
    sys.exit(main())
