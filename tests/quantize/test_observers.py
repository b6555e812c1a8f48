"""Observers: here and as enqueued on a device, both against numpy."""

import numpy as np
import pytest
import torch

from torch2rt.quantize import observers
from torch2rt.quantize.histogram import MIN_EXPONENT
from torch2rt.quantize.observers import Batch, Seen, counted_here, counted_on_device

VALUES = {
    "normal": lambda: torch.randn(3, 5, 700),
    "relu": lambda: torch.relu(torch.randn(40_000)),
    "zeros": lambda: torch.zeros(17),
    "negative": lambda: -torch.rand(100) - 1,
    "a power of two": lambda: torch.tensor([4.0, -4.0, 2.0]),
    "tiny": lambda: torch.tensor([1e-40, -1e-42]),
    "huge": lambda: torch.tensor([3.4e38, 1.0, -2e38]),
    "one": lambda: torch.tensor(2.5),
    "strided": lambda: torch.randn(64, 64).t()[:, ::3],
    "several pieces": lambda: torch.randn(150_000),
}


def on_device(value: torch.Tensor) -> Seen:
    return observers._from_row(counted_on_device(value).cpu().numpy())


@pytest.mark.parametrize("what", VALUES)
def test_both_ways_see_the_same(what):
    value = VALUES[what]()
    here, there = counted_here(value), on_device(value)
    flat = value.numpy().reshape(-1)
    for seen in (here, there):
        assert seen.minimum == flat.min()
        assert seen.maximum == flat.max()
        assert seen.negatives == (flat < 0).sum()
        assert seen.histogram.total == flat.size
        assert seen.histogram.counts[0] == (flat == 0).sum()
        assert seen.largest <= 2.0**seen.histogram.exponent
        assert seen.histogram.used == pytest.approx(
            np.ceil(float(seen.largest) / seen.histogram.width), abs=0
        )
    assert here.histogram.exponent == there.histogram.exponent
    assert np.array_equal(here.histogram.counts, there.histogram.counts)


def test_pieces_of_a_tensor_too_long_for_float32_counts_add_up(monkeypatch):
    monkeypatch.setattr(observers, "_EXACT_COUNT", 100)
    value = torch.randn(1234)
    assert np.array_equal(on_device(value).histogram.counts, counted_here(value).histogram.counts)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_seen_and_not_counted(bad):
    value = torch.randn(100)
    value[3] = bad
    for seen in (counted_here(value), on_device(value)):
        assert not seen.is_finite
        assert seen.histogram.exponent == MIN_EXPONENT


def test_a_batch_keeps_the_order_and_takes_any_float():
    batch = Batch()
    batch.see("half", torch.tensor([1.5, -2.0], dtype=torch.float16))
    batch.see("nothing", torch.zeros(0, 3))
    batch.see("brain", torch.tensor([3.0], dtype=torch.bfloat16))
    batch.see("double", torch.tensor([0.25], dtype=torch.float64))
    seen = batch.seen()
    assert list(seen) == ["half", "brain", "double"]
    assert (seen["half"].minimum, seen["half"].maximum, seen["half"].negatives) == (-2.0, 1.5, 1)
    assert seen["double"].maximum == 0.25


def test_merging_is_seeing_all_at_once():
    values = torch.randn(1000) * torch.logspace(-3, 3, 1000)
    merged = counted_here(values[:300])
    for part in (values[300:301], values[301:900], values[900:]):
        merged = merged.merged(counted_here(part))
    whole = counted_here(values)
    assert (merged.minimum, merged.maximum, merged.negatives) == (
        whole.minimum, whole.maximum, whole.negatives
    )
    assert np.array_equal(merged.histogram.counts, whole.histogram.counts)


@pytest.mark.gpu
@pytest.mark.parametrize("what", VALUES)
def test_on_a_gpu_the_same_is_seen(what):
    value = VALUES[what]()
    batch = Batch()
    batch.see("x", value.cuda())
    (seen,) = batch.seen().values()
    here = counted_here(value)
    assert (seen.minimum, seen.maximum, seen.negatives) == (
        here.minimum, here.maximum, here.negatives
    )
    assert seen.histogram.exponent == here.histogram.exponent
    assert np.array_equal(seen.histogram.counts, here.histogram.counts)
