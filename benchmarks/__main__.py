"""`python -m benchmarks`: one benchmark after the other, with default settings, or those named.

Each tells what it took, of the CPU with the processes that it started, and by the clock.

Not among them, as they take long or much memory: `benchmarks.devices`, `benchmarks.flower_grid` and
`benchmarks.graphs served edges large`.
"""

import argparse
import importlib
import os
import sys
import time

NAMES = (
    "engines",
    "scale",
    "precision",
    "workers",
    "private_training",
    "graphs",
    "graph_clients",
)


def cpu() -> float:
    """Seconds of the CPU so far, of this process and of those that it has waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def main() -> None:
    """Run them in turn."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(NAMES))
    names = parser.parse_args().names or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"unknown benchmark {min(unknown)}; choose from {', '.join(NAMES)}")
    sys.argv = [sys.argv[0]]  # each reads options of its own
    for name in names:
        clock, before = time.perf_counter(), cpu()
        importlib.import_module(f"benchmarks.{name}").main()
        clock = time.perf_counter() - clock
        print(f"\n{name}: {cpu() - before:.0f} s of the CPU, {clock:.0f} s by the clock\n")


if __name__ == "__main__":
    main()
