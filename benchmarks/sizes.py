"""Sizes of clusters, as the command line has them: 1000x10 is 1,000 Services of 10 endpoints each."""

from __future__ import annotations

import argparse
from typing import NamedTuple


class Size(NamedTuple):
    """How many Services, and how many endpoints each."""

    services: int
    endpoints: int

    def __str__(self) -> str:
        return f"{self.services:,} of {self.endpoints:,}"


def read(words: str) -> Size:
    """Read a size as people do."""
    services, endpoints = words.replace(",", "").split(" of ")
    return Size(int(services), int(endpoints))


SMALL = (Size(10, 10), Size(100, 10), Size(1000, 10))
LARGE = (Size(10000, 10), Size(40000, 2), Size(5000, 50), Size(1, 5000))


def parse(text: str) -> Size:
    """Read one size; for argparse."""
    services, by, endpoints = text.partition("x")
    # isdecimal also takes digits of other scripts, as int does.
    if not (by and services.isdecimal() and endpoints.isdecimal() and int(services) and int(endpoints)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write it as 1000x10")
    return Size(int(services), int(endpoints))
