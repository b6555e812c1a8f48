"""Entropy calibration as published: it cuts tails, and nothing where there are none.

Source: Migacz, 8-bit Inference with TensorRT, GTC 2017.
"""

import numpy as np
import pytest
import torch

from torch2rt.quantize.histogram import Histogram
from torch2rt.quantize.observers import Batch
from torch2rt.quantize.thresholds import choose_threshold

COUNT = 200_000
METHODS = ("entropy", "entropy_doubling")


def share_kept(method, values):
    """The threshold over the largest magnitude."""
    magnitudes = np.abs(values).astype(np.float32)
    histogram = histogram_of(magnitudes)
    largest = float(magnitudes.max())
    return choose_threshold(method, histogram, largest) / largest


def histogram_of(magnitudes):
    batch = Batch()
    batch.see("x", torch.from_numpy(magnitudes))
    histogram = batch.seen()["x"].histogram
    assert isinstance(histogram, Histogram)
    return histogram


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("method", METHODS)
def test_uniform_values_are_kept(method, rng):
    assert share_kept(method, rng.uniform(-1, 1, COUNT)) > 0.97


@pytest.mark.parametrize("method", METHODS)
def test_heavier_tails_are_cut_shorter(method, rng):
    uniform = share_kept(method, rng.uniform(-1, 1, COUNT))
    normal = share_kept(method, rng.standard_normal(COUNT))
    heavy = share_kept(method, rng.standard_t(3, COUNT))
    assert heavy < 0.7 * normal
    assert normal < uniform
    assert heavy < 0.5


@pytest.mark.parametrize("method", METHODS)
def test_the_cut_does_not_depend_on_the_unit(method, rng):
    values = rng.laplace(size=COUNT)
    assert share_kept(method, values) == pytest.approx(share_kept(method, 1024 * values), rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_activations_after_relu_lose_only_their_tail(method, rng):
    values = np.maximum(rng.standard_normal(COUNT), 0)
    kept = share_kept(method, values) * values.max()
    assert (values > kept).mean() < 0.02
    assert kept > 2


@pytest.mark.parametrize("method", METHODS)
def test_a_value_of_very_many_does_not_cut_the_others(method, rng):
    digits = np.maximum(rng.standard_normal(COUNT) * 2, 0)
    background = np.full(4 * COUNT, 0.31)
    values = np.concatenate([background, digits])
    kept = share_kept(method, values) * values.max()
    assert (values > kept).mean() <= 0.001
