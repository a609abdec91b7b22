"""Runs the named benchmarks, or all; `make bench` does it on a kernel with IPVS."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from benchmarks import (
    audit,
    change,
    idle,
    kube_proxy,
    results,
    rolling,
    scheduler_changes,
    sizes,
    start,
    status,
    summary,
    table,
    vips,
)
from benchmarks.sizes import Size


class Sized(NamedTuple):
    """A benchmark of clusters of several sizes."""

    main: Callable[[Sequence[Size]], bool]
    sizes: Sequence[Size]
    """Minutes in all."""
    large: Sequence[Size]
    """What takes longer, or more memory."""


SIZED: Mapping[str, Sized] = {
    "start": Sized(start.main, sizes.SMALL, sizes.LARGE),
    "change": Sized(change.main, sizes.SMALL, sizes.LARGE),
    "rolling": Sized(rolling.main, rolling.SIZES, rolling.LARGE),
    "audit": Sized(audit.main, audit.SIZES, audit.LARGE),
    "idle": Sized(idle.main, idle.SIZES, idle.LARGE),
    "status": Sized(status.main, sizes.SMALL, sizes.LARGE),
    "kube-proxy": Sized(kube_proxy.main, sizes.SMALL, sizes.LARGE),
    "vips": Sized(vips.main, vips.SIZES, vips.LARGE),
}
BENCHMARKS: Mapping[str, Callable[[], bool]] = {
    "scheduler_changes": scheduler_changes.main,
}
"""Those that have one size."""


def main() -> int:
    """Run benchmarks; return 0 if all have reached their goals."""
    every = [*SIZED, *BENCHMARKS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure on this kernel.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(every)}; none: all")
    parser.add_argument("--full", action="store_true", help="the large sizes too")
    parser.add_argument(
        "--size",
        type=sizes.parse,
        action="append",
        help="Services x endpoints of each, as 1000x10; may be repeated",
    )
    parser.add_argument(
        "--sync-limit",
        type=float,
        default=kube_proxy.SYNC_LIMIT,
        metavar="SECONDS",
        help="how long kube-proxy's first sync may take after its tables; else its changes are not measured",
    )
    options = parser.parse_args()
    names = options.names or every
    if unknown := [name for name in names if name not in every]:
        parser.error(f"no benchmark {', '.join(unknown)}: there are {', '.join(every)}")
    print(table.machine())
    print(", ".join(f"{name} {version}" for name, version in table.versions().items()), end="\n\n")
    chosen = {name: _chosen(name, options.size, full=options.full) for name in names}
    if "kube-proxy" in chosen:
        chosen["kube-proxy"] = partial(chosen["kube-proxy"], sync_limit=options.sync_limit)
    is_reached = [run() for run in chosen.values()]
    summary.show(results.RUN)
    return 0 if all(is_reached) else 1


def _chosen(name: str, given: Sequence[Size] | None, *, full: bool) -> Callable[..., bool]:
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    one = SIZED[name]
    larger = [size for size in one.large if size not in one.sizes] if full else []
    return partial(one.main, given or [*one.sizes, *larger])


if __name__ == "__main__":
    sys.exit(main())
