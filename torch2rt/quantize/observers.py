"""Observers: what values a tensor takes, batch by batch, in bounded memory and on its device.

Per batch and tensor: smallest and largest value, how many are negative, and the histogram of
magnitudes at the batch's own power of two. On a GPU all of it is enqueued, nothing is waited for,
and one transfer per batch brings the counts of every tensor; there they merge into what was seen
before, exactly (see `histogram`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from torch2rt.quantize.histogram import BINS, BINS_LOG2, MIN_EXPONENT, Histogram, exponent_of

# float32 counts exactly so far, and the counts of torch.histc on a GPU are float32.
_EXACT_COUNT = 1 << 24
# So many values stay in a core's cache between the steps that count them.
_CACHED = 1 << 16
_FLOAT32_BIAS = 127
_FLOAT32_MANTISSA_BITS = 23


@dataclass(frozen=True)
class Seen:
    """What was seen of one tensor. ``histogram`` is of the magnitudes."""

    minimum: float
    maximum: float
    negatives: int
    histogram: Histogram

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(abs(self.minimum), abs(self.maximum))

    @property
    def is_finite(self) -> bool:
        """Whether there was no NaN and no infinity."""
        return math.isfinite(self.minimum) and math.isfinite(self.maximum)

    def merged(self, other: Seen) -> Seen:
        """What both saw."""
        return Seen(
            min(self.minimum, other.minimum), max(self.maximum, other.maximum),
            self.negatives + other.negatives, self.histogram.merged(other.histogram),
        )


class Batch:
    """One batch of observations: `see` each tensor, then `seen` has them all."""

    def __init__(self) -> None:
        self._here: dict[str, Seen] = {}
        self._there: dict[str, torch.Tensor] = {}

    def see(self, name: str, value: torch.Tensor) -> None:
        """Observe a tensor of floats; one without elements tells nothing."""
        if value.numel() == 0:
            return
        value = value.detach().float()
        if value.is_cuda:
            self._there[name] = counted_on_device(value)
        else:
            self._here[name] = counted_here(value)

    def seen(self) -> dict[str, Seen]:
        """What was seen, by tensor, in the order of `see`."""
        found = dict(self._here)
        if self._there:
            rows = torch.stack(list(self._there.values())).cpu().numpy()
            found |= {
                name: _from_row(row) for name, row in zip(self._there, rows, strict=True)
            }
        return found


def counted_here(value: torch.Tensor) -> Seen:
    """Statistics of a float32 tensor on the CPU, a cacheful of values at a time."""
    low, high = (float(bound) for bound in torch.aminmax(value))
    largest = max(abs(low), abs(high))
    if not math.isfinite(low) or not math.isfinite(high):
        return Seen(low, high, 0, Histogram.empty())
    exponent = exponent_of(largest)
    scale = math.ldexp(1.0, BINS_LOG2 - exponent)
    counts = torch.zeros(BINS + 1, dtype=torch.int64)
    floats, indices = torch.empty(_CACHED), torch.empty(_CACHED, dtype=torch.int16)
    negatives = 0
    for part in torch.split(value.reshape(-1), _CACHED):
        scaled, index = floats[: part.numel()], indices[: part.numel()]
        torch.abs(part, out=scaled)
        index.copy_(scaled.mul_(scale).ceil_())
        counts += torch.bincount(index, minlength=BINS + 1)
        if low < 0:
            negatives += int(torch.count_nonzero(part < 0))
    return Seen(low, high, negatives, Histogram(exponent, counts.numpy()))


def counted_on_device(value: torch.Tensor) -> torch.Tensor:
    """The same, enqueued: one row of float64 [minimum, maximum, negatives, exponent, counts...].

    Of no use but for minimum and maximum where those are not finite.
    """
    value = value.reshape(-1)
    low, high = torch.aminmax(value)
    exponent = _exponent_of(torch.maximum(low.abs(), high.abs()))
    # 2 ** (BINS_LOG2 - exponent), made of bits: torch's pow need not be exact.
    biased = (_FLOAT32_BIAS + BINS_LOG2 - exponent).to(torch.int32)
    scale = (biased << _FLOAT32_MANTISSA_BITS).view(torch.float32)
    counts = torch.zeros(BINS + 1, dtype=torch.float64, device=value.device)
    for part in torch.split(value, _EXACT_COUNT):
        index = part.abs().mul_(scale).ceil_()
        counts += torch.histc(index, BINS + 1, 0, BINS + 1)
    negatives = (value < 0).sum()
    head = [item.to(torch.float64).reshape(1) for item in (low, high, negatives, exponent)]
    return torch.cat([*head, counts])


def _exponent_of(magnitude: torch.Tensor) -> torch.Tensor:
    """`exponent_of` without waiting for the value."""
    mantissa, exponent = torch.frexp(magnitude)
    found = exponent - (mantissa == 0.5).to(exponent.dtype)
    found = torch.where(magnitude == 0, MIN_EXPONENT, found)
    return found.clamp(MIN_EXPONENT, 128)


def _from_row(row: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Seen:
    low, high, negatives, exponent = (float(item) for item in row[:4])
    if not math.isfinite(low) or not math.isfinite(high):
        return Seen(low, high, 0, Histogram.empty())
    return Seen(low, high, int(negatives), Histogram(int(exponent), row[4:].astype(np.int64)))
