"""Simulation of the governor against servers of each kind, in virtual time.

Prints a table with the figures of each case over all seeds and their targets. Exits with 1 if a target is missed.
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
    parser.add_argument("cases", nargs="*", metavar="case", help=f"one of {', '.join(CASES)}; by default all of them")
    parser.add_argument("--seeds", type=int, default=20, help="runs of each case (20)")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(CASES):
        parser.error(f"unknown case {', '.join(sorted(unknown))}: choose from {', '.join(CASES)}")
    if arguments.seeds < 1:
        parser.error("--seeds: must be at least 1")
    missed = 0
    print(f"Median and range of {arguments.seeds} seeds.\n")
    print("| server | figure | median | range | target | |\n|---|---|---|---|---|---|")
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for name in arguments.cases or CASES:
            runs = list(pool.map(run, [name] * arguments.seeds, range(arguments.seeds)))
            for row, figures in enumerate(zip(*runs, strict=True)):
                missed += not all(figure.is_reached for figure in figures)
                print(table_row(CASES[name][1] if not row else "", figures), flush=True)
    if missed:
        print(f"\n{missed} missed with at least one seed")
    return 1 if missed else 0


def run(name: str, seed: int) -> list[Figure]:
    """The figures of a case with one seed."""
    return CASES[name][0](seed, 1.0)


def table_row(server: str, figures: tuple[Figure, ...]) -> str:
    values = [figure.value for figure in figures]
    median = statistics.median(values)
    verdict = "reached" if all(figure.is_reached for figure in figures) else "**missed**"
    spread = f"{formatted(min(values))} to {formatted(max(values))}"
    return f"| {server} | {figures[0].name} | {formatted(median)} | {spread} | {figures[0].target} | {verdict} |"


def formatted(value: float) -> str:
    return (
        f"{value:.0f}"
        if value == int(value) or abs(value) >= 100
        else f"{value:.4f}"
        if value < 0.01
        else f"{value:.3f}"
    )


if __name__ == "__main__":
    sys.exit(main())
