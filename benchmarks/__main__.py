"""Runs the named benchmarks, or all; `make bench` does it on a kernel with IPVS."""

from __future__ import annotations

import argparse
import sys

from benchmarks import change, start, table

BENCHMARKS = {"start": start.main, "change": change.main}


def main() -> int:
    """Run benchmarks; return 0 if all have reached their goals."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure on this kernel.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{' or '.join(BENCHMARKS)}; none: all")
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {', '.join(unknown)}: there are {', '.join(BENCHMARKS)}")
    print(f"{table.machine()}\n")
    is_reached = [BENCHMARKS[name]() for name in names]
    return 0 if all(is_reached) else 1


if __name__ == "__main__":
    sys.exit(main())
