"""Histograms: what is binned where, and that growing and merging lose nothing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torch2rt.quantize.histogram import (
    BINS,
    MIN_EXPONENT,
    NUMERICAL_ZERO,
    Histogram,
    exponent_of,
)
from torch2rt.quantize.observers import counted_here

magnitudes = st.just(0.0) | st.floats(2.0**-60, 2.0**60, width=32)


def histogram(values) -> Histogram:
    return counted_here(torch.tensor(values, dtype=torch.float32)).histogram


def binned(values, exponent: int) -> np.ndarray:
    """The definition, value by value: bin b holds (b * width, (b + 1) * width], zeros apart."""
    counts = np.zeros(BINS + 1, np.int64)
    for value in values:
        counts[math.ceil(abs(value) * math.ldexp(BINS, -exponent))] += 1
    return counts


def same(a: Histogram, b: Histogram) -> bool:
    return a.exponent == b.exponent and np.array_equal(a.counts, b.counts)


@pytest.mark.parametrize(
    ("magnitude", "exponent"),
    [(1.0, 0), (1.0000001, 1), (0.5, -1), (0.75, 0), (3.0, 2), (4.0, 2), (0.0, MIN_EXPONENT),
     (1e-40, MIN_EXPONENT), (3.4e38, 128)],
)
def test_a_range_is_the_least_power_of_two_that_holds_a_magnitude(magnitude, exponent):
    assert exponent_of(magnitude) == exponent
    assert magnitude <= 2.0**exponent


def test_values_are_binned_by_definition():
    values = [*np.random.default_rng(0).normal(size=500).tolist(), 0.0, 0.0, -0.0, 1.0, -2.0]
    values = np.float32(values).tolist()
    found = histogram(values)
    assert found.exponent == exponent_of(max(map(abs, values)))
    assert np.array_equal(found.counts, binned(values, found.exponent))
    assert found.counts[0] == 3
    assert found.total == len(values)


@given(st.lists(magnitudes, min_size=1), st.lists(magnitudes, min_size=1))
def test_merging_is_the_histogram_of_both_in_any_order(left, right):
    both = histogram(left + right)
    assert same(histogram(left).merged(histogram(right)), both)
    assert same(histogram(right).merged(histogram(left)), both)
    assert same(Histogram.empty().merged(both), both)


def test_growing_merges_bins_in_pairs_and_keeps_every_value():
    one = histogram([0.0, 0.3, 0.6, 1.0])
    for by in (1, 2, 5, 13, 40, 200):
        grown = one.grown(one.exponent + by)
        assert grown.exponent == one.exponent + by
        assert grown.total == 4
        assert grown.counts[0] == 1
    assert one.grown(-5) is one
    far = one.grown(one.exponent + 200)
    assert far.counts[1] == 3


def test_grouping_keeps_at_most_so_many_bins_up_to_the_last():
    one = histogram(np.linspace(0.001, 0.7, 3000).tolist())
    counts, width = one.grouped(2048)
    assert 1024 <= len(counts) <= 2048
    assert counts.sum() == 3000
    assert counts[-1] > 0
    assert len(counts) * width >= 0.7 > (len(counts) - 1) * width


def test_an_empty_histogram_has_nothing():
    empty = Histogram.empty()
    assert (empty.total, empty.used) == (0, 0)
    counts, width = empty.grouped(2048)
    assert counts.size == 0
    assert width > 0
    assert NUMERICAL_ZERO == 2.0**MIN_EXPONENT
