"""Thresholds: each method against its definition, and what is odd."""

import math
import time

import numpy as np
import pytest
import torch

from torch2rt.errors import ConfigError
from torch2rt.quantize.histogram import Histogram
from torch2rt.quantize.observers import Seen, counted_here
from torch2rt.quantize.thresholds import (
    METHODS,
    choose_threshold,
    divergences,
    parse_method,
)


def seen(values) -> Seen:
    return counted_here(torch.as_tensor(values, dtype=torch.float32))


def threshold(method: str, values) -> float:
    found = seen(values)
    return choose_threshold(method, found.histogram, found.largest)


def divergence_by_hand(counts, i: int, levels: int) -> float:
    """KL(P || Q) as it is written down, bin by bin."""
    p = [float(c) for c in counts[:i]]
    p[-1] += float(sum(counts[i:]))
    group = [b * levels // i for b in range(i)]
    mass, bins = [0.0] * levels, [0] * levels
    for b in range(i):
        mass[group[b]] += float(counts[b])
        bins[group[b]] += p[b] > 0
    q = [mass[group[b]] / bins[group[b]] if p[b] > 0 else 0.0 for b in range(i)]
    if mass[-1] == 0 and p[-1] > 0:
        q[-1] = 0.5
    total_p, total_q = sum(p), sum(q)
    divergence = 0.0
    for one, other in zip(p, q, strict=True):
        if one > 0:
            divergence += one / total_p * math.log(one / total_p / (other / total_q))
    return divergence


@pytest.mark.parametrize("levels", [8, 7])
@pytest.mark.parametrize("seed", range(4))
def test_divergences_are_those_written_down(levels, seed):
    random = np.random.default_rng(seed)
    counts = random.integers(0, 50, size=40) * (random.random(40) < (1.0, 0.6, 0.3, 0.15)[seed])
    counts[-1] = 1
    wanted = [divergence_by_hand(counts, i, levels) for i in range(levels, len(counts) + 1)]
    np.testing.assert_allclose(divergences(counts, levels), wanted, rtol=1e-9, atol=1e-12)
    assert min(wanted) > -1e-12


def test_entropy_is_the_least_divergence_of_2048_bins_and_128_levels():
    values = np.random.default_rng(0).laplace(size=100_000)
    one = seen(values)
    counts, width = one.histogram.grouped(2048)
    tried = range(128, len(counts) + 1, 17)
    by_hand = {i: divergence_by_hand(counts, i, 128) for i in tried}
    chosen = threshold("entropy", values) / width - 0.5
    assert chosen == round(chosen)
    assert divergence_by_hand(counts, round(chosen), 128) <= min(by_hand.values()) + 1e-12
    assert threshold("entropy", values) < 0.95 * one.largest


def test_entropy_does_not_look_at_zeros():
    values = np.random.default_rng(0).laplace(size=50_000)
    with_zeros = np.concatenate([values, np.zeros(200_000)])
    assert threshold("entropy", with_zeros) == threshold("entropy", values)


def test_the_doubling_variant_has_1024_bins_drops_the_first_and_has_127_levels():
    values = np.random.default_rng(1).laplace(size=100_000)
    one = seen(values)
    counts = one.histogram.counts[1:].reshape(1024, 8).sum(1)
    counts = counts[: np.flatnonzero(counts)[-1] + 1]
    counts[0] = 0
    width = 2.0**one.histogram.exponent / 1024
    chosen = round(threshold("entropy_doubling", values) / width - 0.5)
    by_hand = [divergence_by_hand(counts, i, 127) for i in range(127, len(counts) + 1, 9)]
    assert divergence_by_hand(counts, chosen, 127) <= min(by_hand) + 1e-12


def test_an_outlier_is_clipped_by_all_but_minmax():
    values = np.concatenate([np.random.default_rng(2).normal(size=200_000), [60.0]])
    assert threshold("minmax", values) == 60.0
    for method in ("entropy", "entropy_doubling", "percentile"):
        assert threshold(method, values) < 20


def test_percentile_is_the_quantile_to_within_a_bin():
    values = np.abs(np.random.default_rng(3).normal(size=100_000)).astype(np.float32)
    for percent in (50.0, 99.0, 99.9, 99.99, 100.0):
        found = threshold(f"percentile:{percent}", values)
        wanted = np.quantile(values, percent / 100, method="inverted_cdf")
        assert wanted - 1e-3 <= found <= wanted + 2e-3
    assert threshold("percentile", values) == threshold("percentile:99.99", values)


def test_mse_is_near_the_best_of_a_search():
    values = np.random.default_rng(4).laplace(size=20_000)

    def error(limit: float) -> float:
        step = limit / 127
        return float(np.mean((np.clip(np.rint(values / step), -127, 127) * step - values) ** 2))

    largest = float(np.abs(values).max())
    best = min(error(largest * i / 500) for i in range(1, 501))
    assert error(threshold("mse", values)) <= 1.02 * best
    assert error(threshold("mse", values)) < 0.95 * error(largest)


@pytest.mark.parametrize("method", METHODS)
def test_odd_tensors_have_positive_thresholds(method):
    assert threshold(method, np.zeros(1000)) == 1.0
    assert threshold(method, [1e-40, 0.0]) == 1.0  # as good as zero
    assert threshold(method, np.full(1000, 3.0)) == 3.0
    assert threshold(method, np.full(1000, -0.7)) == pytest.approx(0.7)
    assert threshold(method, [5.0]) == 5.0
    assert threshold(method, [0.0] * 9999 + [2.0]) == 2.0
    assert threshold(method, np.full(2, 3e38)) == pytest.approx(3e38)
    sparse = np.zeros(100_000)
    sparse[:3] = (1.0, 2.0, 3.0)
    assert threshold(method, sparse) > 0
    assert threshold(method, np.linspace(0, 1, 50)) > 0.5


def test_few_values_are_not_clipped_by_entropy():
    values = np.random.default_rng(5).normal(size=300)
    for method in ("entropy", "entropy_doubling"):
        assert threshold(method, values) == pytest.approx(np.abs(values).max())


@pytest.mark.parametrize(
    "method", ["entropi", "percentile:", "percentile:30", "minmax:3", "", None]
)
def test_unknown_methods_are_refused(method):
    with pytest.raises(ConfigError, match=r"calibration_method=.* is not valid: unknown value\. "
                       r"Use one of 'entropy', .* or 'best'"):
        parse_method(method)


def test_sixty_tensors_take_no_time():
    values = seen(np.random.default_rng(6).laplace(size=300_000))
    start = time.process_time()
    for _ in range(60):
        choose_threshold("entropy", values.histogram, values.largest)
    assert time.process_time() - start < 3.0


def test_nothing_seen_is_like_zero():
    assert choose_threshold("entropy", Histogram.empty(), 0.0) == 1.0
