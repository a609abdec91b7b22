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


def parse(text: str) -> Size:
    """Read one size; for argparse."""
    services, by, endpoints = text.partition("x")
    # isdecimal also takes digits of other scripts, as int does.
    if not (by and services.isdecimal() and endpoints.isdecimal() and int(services) and int(endpoints)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write it as 1000x10")
    return Size(int(services), int(endpoints))
