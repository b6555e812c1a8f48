"""Histograms of magnitudes on a grid of powers of two: they grow, merge and never blur.

A histogram covers (0, 2**exponent] with BINS bins of equal width; bin b holds the magnitudes in
(b * width, (b + 1) * width]. Zeros are counted apart. Where a larger magnitude comes, the exponent
grows and bins merge in pairs. Since every range is a power of two, a histogram does not depend on
the order of what it saw, and merging two gives exactly the histogram of both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

BINS_LOG2 = 13
BINS = 1 << BINS_LOG2
# Magnitudes up to 2**-100 (8e-31) are as good as zero: nothing a float32 layer does with them
# shows beside anything else, and their scale would not fit float32.
MIN_EXPONENT = -100
NUMERICAL_ZERO = 2.0**MIN_EXPONENT


@dataclass(frozen=True)
class Histogram:
    """Counts of magnitudes: ``counts[0]`` zeros, ``counts[1:]`` the BINS bins of the range."""

    exponent: int
    counts: Counts

    @staticmethod
    def empty() -> Histogram:
        """A histogram that saw nothing."""
        return Histogram(MIN_EXPONENT, np.zeros(BINS + 1, np.int64))

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self.exponent - BINS_LOG2)

    @property
    def total(self) -> int:
        """How many values it saw."""
        return int(self.counts.sum())

    @property
    def used(self) -> int:
        """Number of bins up to the last that is not empty."""
        filled = np.flatnonzero(self.counts[1:])
        return int(filled[-1]) + 1 if filled.size else 0

    def grown(self, exponent: int) -> Histogram:
        """The same over a range at least as large: each doubling merges bins in pairs."""
        by = exponent - self.exponent
        if by <= 0:
            return self
        counts = np.zeros(BINS + 1, np.int64)
        counts[0] = self.counts[0]
        group = 1 << min(by, BINS_LOG2)
        merged = self.counts[1:].reshape(-1, group).sum(1)
        counts[1 : 1 + merged.size] = merged
        return Histogram(exponent, counts)

    def merged(self, other: Histogram) -> Histogram:
        """The histogram of what both saw."""
        exponent = max(self.exponent, other.exponent)
        return Histogram(exponent, self.grown(exponent).counts + other.grown(exponent).counts)

    def grouped(self, most: int) -> tuple[Counts, float]:
        """At most so many bins up to the last that is not empty, and their width; no zeros."""
        used = self.used
        group = max(1, -(-used // most))
        count = -(-used // group)
        padded = np.zeros(count * group, np.int64)
        available = self.counts[1 : 1 + padded.size]
        padded[: available.size] = available
        return padded.reshape(count, group).sum(1), group * self.width


def exponent_of(magnitude: float) -> int:
    """The least exponent whose range holds a magnitude."""
    if magnitude <= NUMERICAL_ZERO:
        return MIN_EXPONENT
    mantissa, exponent = math.frexp(magnitude)
    return max(MIN_EXPONENT, exponent - (mantissa == 0.5))
