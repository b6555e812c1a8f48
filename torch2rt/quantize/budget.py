"""The budget of ``precision="auto"``: a metric and how far it may fall below the model's.

A metric is called once per held-out batch, with the model's outputs (in the model's own structure,
on the CPU) and the batch as the loader gave it, labels and all; it returns a number, higher is
better. A model's score is the mean over the batches, each counting as many times as it has
samples.

    def accuracy(outputs, batch):
        images, labels = batch
        return (outputs.argmax(1) == labels).float().mean()

Without a metric the score is 1 minus the relative error of the outputs against the float32 model,
averaged over outputs; of integers, the share that is equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, SupportsFloat, TypeAlias

from torch2rt.errors import ConfigError

Metric: TypeAlias = Callable[[Any, Any], SupportsFloat]

AUTO = "auto"
BOUNDED = "int8"  # has no metric, and yet a bound of what the outputs may lose
DEFAULT_DROP = 0.005
# Without a metric: a relative error of 3 %, an SQNR of 30 dB.
DEFAULT_ERROR = 0.03
# Of 8 bits in "int8": 32 dB, at which networks whose images are of things that they do not know
# still give the same top class for 97 of 100 (tests/bench/int8_accuracy.py).
DEFAULT_LOSS = 0.025


@dataclass(frozen=True, slots=True)
class Budget:
    """How far a metric may fall below that of the float32 model; None: see the module."""

    metric: Metric | None
    max_drop: float


def budget_from_options(
    precision: object, metric: object, max_drop: object, *, has_loader: bool
) -> Budget | None:
    """The options of `convert` together, None for a precision that is not "auto".

    ConfigError for unusable values, and without data to measure on.
    """
    if precision != AUTO:
        is_bounded = precision == BOUNDED and has_loader
        for option, value in (("metric", metric), ("max_drop", max_drop)):
            if value is not None and not (is_bounded and option == "max_drop"):
                raise ConfigError(
                    option=option, value=value, reason=f"precision {precision!r} has no budget",
                    remedy='Convert with precision="auto", or leave it out.',
                )
        return None
    if not has_loader:
        raise ConfigError(
            option="calibration", value=None, reason='precision="auto" measures on data',
            remedy="Pass a DataLoader or another iterable of input batches; every fourth is held "
            "out to judge by.",
        )
    if metric is not None and not callable(metric):
        raise ConfigError(
            option="metric", value=metric, reason="it cannot be called",
            remedy="Pass a function of the model's outputs and a batch of the loader.",
        )
    default = DEFAULT_ERROR if metric is None else DEFAULT_DROP
    return Budget(metric, default if max_drop is None else _drop(max_drop))


def max_error_of(precision: object, max_drop: object) -> float | None:
    """The relative error of the outputs that 8 bits may make, None where it is not bounded.

    ConfigError for an unusable value.
    """
    if precision != BOUNDED:
        return None
    return DEFAULT_LOSS if max_drop is None else _drop(max_drop)


def _drop(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigError(
            option="max_drop", value=value, reason="it is how far the metric may fall",
            remedy="Pass a number of at least 0, such as 0.005.",
        )
    return float(value)
