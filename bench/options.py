"""What the options of the benchmarks are made of."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """Return the number that an option has, which is 1 or more.

    Raises:
        argparse.ArgumentTypeError: It is less.
        ValueError: It is no integer.
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number
