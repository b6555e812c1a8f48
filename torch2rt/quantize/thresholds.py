"""From what was seen of a tensor to its threshold, which the largest integer stands for.

- ``entropy``: the threshold whose 128 levels lose least information about the distribution (KL).
  Zeros are left out: they are exact at every scale. After TensorRT (GTC 2017).
- ``entropy_doubling``: the later variant: 1024 bins, the first one dropped, 127 levels. Both keep
  the largest magnitude of a tensor of which too few values were seen.
- ``minmax``: the largest magnitude seen.
- ``percentile``: at most that many percent of the values are below; ``percentile:99.9`` names it.
- ``mse``: the least mean squared error of rounding and clipping together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from torch2rt.errors import ConfigError
from torch2rt.quantize.histogram import BINS, NUMERICAL_ZERO, Counts, Floats, Histogram

METHODS = ("entropy", "entropy_doubling", "minmax", "percentile", "mse")
BEST = "best"
OUTPUTS = "outputs"
DEFAULT_METHOD = "percentile"
DEFAULT_PERCENTILE = 99.99
# With fewer values to a bin a histogram shows the sample and not the distribution: clipping by it
# takes what was seldom for what is never.
_PER_BIN = 10
# A value that very many elements have, as the background of an image gives, outweighs all others
# in the divergence, and would have them cut off: so many of what is not zero are kept in any case.
_KEPT = 0.999
_STEPS = 127  # on each side of zero, of an 8-bit integer
_CANDIDATES = 160  # thresholds that the mean squared error is computed of


def choose_threshold(method: str, histogram: Histogram, largest: float) -> float:
    """The threshold of a tensor by a method; 1.0 for one that was never anything but zero.

    ``largest`` is the largest magnitude seen. ConfigError for an unknown method.
    """
    name, percentile = parse_method(method)
    if largest <= NUMERICAL_ZERO:
        return 1.0
    if np.count_nonzero(histogram.counts[1:]) == 1:
        return largest  # a constant, or nearly: there is nothing to clip
    if name == "percentile":
        return min(_percentile(histogram, percentile), largest)
    chosen = _BY_NAME[name](histogram)
    return chosen if chosen is not None else largest


def parse_method(method: str) -> tuple[str, float]:
    """The name of a method and its percentile; ConfigError for what is none."""
    name, separator, number = str(method).partition(":")
    if name in METHODS and not separator:
        return name, DEFAULT_PERCENTILE
    if name == "percentile":
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if 50.0 <= value <= 100.0:
            return name, value
    raise ConfigError(
        option="calibration_method", value=method, reason="unknown value",
        remedy=f"Use one of {', '.join(map(repr, METHODS))}, 'percentile:99.9' (from 50 to 100) "
        f"{OUTPUTS!r} or {BEST!r}.",
    )


def _entropy(histogram: Histogram) -> float | None:
    counts, width = histogram.grouped(2048)
    return _least_divergence(counts, width, levels=128)


def _entropy_doubling(histogram: Histogram) -> float | None:
    group = BINS // 1024
    counts = histogram.counts[1:].reshape(1024, group).sum(1)[: -(-histogram.used // group)]
    counts[0] = 0
    return _least_divergence(counts, group * histogram.width, levels=127)


def _least_divergence(counts: Counts, width: float, levels: int) -> float | None:
    if counts.size < levels or counts.sum() < _PER_BIN * counts.size:
        return None
    cut = divergences(counts, levels)
    first = max(0, int(np.searchsorted(np.cumsum(counts), _KEPT * counts.sum())) + 1 - levels)
    return (levels + first + int(np.argmin(cut[first:])) + 0.5) * width


def divergences(counts: Counts, levels: int) -> Floats:
    """KL(P || Q) for each number i of bins kept, from ``levels`` to all of them.

    P: the first i bins, all that is beyond added to the last.
    Q: the first i bins without that, merged into ``levels`` groups, bin b into floor(b * levels
    / i), each spread evenly over those of its bins that are not empty in P. Where the last group
    is empty but for what is beyond, Q has half a value there: it is unlikely, not impossible.

    With sums from the left every i costs ``levels`` steps and not i: sum P log Q goes group by
    group, since Q is the same in all bins of one.
    """
    count = counts.size
    kept = np.arange(levels, count + 1)
    mass = counts.astype(np.float64)
    sums, filled = _from_left(mass), _from_left(counts > 0)
    information = _from_left(_x_log_x(mass))
    last, beyond = mass[kept - 1], sums[-1] - sums[kept]

    bounds = _bounds(count, levels)
    of_group = np.diff(sums[bounds], axis=1)
    bins = np.diff(filled[bounds], axis=1)
    bins[:, -1] += (last == 0) & (beyond > 0)
    of_p = of_group.copy()
    of_p[:, -1] += beyond
    of_group[:, -1] += 0.5 * ((of_group[:, -1] == 0) & (beyond > 0))
    of_q = of_group.sum(1)
    ratio = np.divide(of_group, bins, out=np.ones_like(of_group), where=bins > 0)
    spread = (of_p * np.log(np.where(of_p > 0, ratio, 1.0))).sum(1)
    own = information[kept - 1] + _x_log_x(last + beyond)
    result: Floats = (own - spread) / sums[-1] - np.log(sums[-1]) + np.log(of_q)
    return result


@lru_cache(maxsize=32)
def _bounds(count: int, levels: int) -> NDArray[np.int64]:
    """First bin of each group, and the end, for each number of bins kept: [kept, levels + 1]."""
    kept = np.arange(levels, count + 1)[:, None]
    bounds: NDArray[np.int64] = -(-np.arange(levels + 1)[None, :] * kept // levels)
    return bounds


def _from_left(values: NDArray[np.float64] | NDArray[np.bool_]) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _x_log_x(values: Floats) -> Floats:
    return values * np.log(np.where(values > 0, values, 1.0))


def _minmax(histogram: Histogram) -> float | None:
    return None  # the largest magnitude itself


def _percentile(histogram: Histogram, percentile: float) -> float:
    """The upper edge of the bin that reaches the percentile, zeros counted."""
    reached = np.cumsum(histogram.counts)
    index = int(np.searchsorted(reached, reached[-1] * (percentile / 100.0)))
    # Where so many are zeros, the few others are all that there is: none is clipped.
    return (index or histogram.used) * histogram.width


def _mean_squared(histogram: Histogram) -> float | None:
    bins = np.flatnonzero(histogram.counts[1:])
    centers = (bins + 0.5) * histogram.width
    weights = histogram.counts[1:][bins].astype(np.float64)
    largest = histogram.used * histogram.width
    thresholds = largest * np.arange(1, _CANDIDATES + 1) / _CANDIDATES
    steps = (thresholds / _STEPS)[:, None]
    rounded = np.minimum(np.rint(centers / steps), _STEPS) * steps
    errors = ((rounded - centers) ** 2) @ weights
    return float(thresholds[int(np.argmin(errors))])


_BY_NAME: dict[str, Callable[[Histogram], float | None]] = {
    "entropy": _entropy, "entropy_doubling": _entropy_doubling, "minmax": _minmax,
    "mse": _mean_squared,
}
