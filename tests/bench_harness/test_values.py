from collections import OrderedDict

import numpy as np
import pytest
import torch

from torch2rt.bench.values import flat_arrays, relative_error

ONE = np.ones((2, 3), np.float32)


def test_nested_outputs_come_flat_and_in_order() -> None:
    outputs = OrderedDict(a=torch.zeros(1), b=(torch.ones(2), None, [np.full(3, 2.0)]), c="text")
    assert [array.tolist() for array in flat_arrays(outputs)] == [[0.0], [1.0, 1.0], [2.0] * 3]


def test_16_bit_outputs_are_widened() -> None:
    (array,) = flat_arrays(torch.full((2,), 1.5, dtype=torch.bfloat16))
    assert array.dtype == np.float32
    assert array.tolist() == [1.5, 1.5]


def test_error_is_relative_to_the_norm() -> None:
    assert relative_error([ONE * 1.01], [ONE]) == pytest.approx(0.01, rel=1e-4)
    assert relative_error([ONE], [ONE]) == 0.0


def test_error_is_the_largest_over_the_outputs() -> None:
    assert relative_error([ONE, ONE * 1.5], [ONE, ONE]) == pytest.approx(0.5)


def test_zero_reference_gives_the_absolute_error() -> None:
    zero = np.zeros(4, np.float32)
    assert relative_error([zero], [zero]) == 0.0
    assert relative_error([zero + 1], [zero]) == pytest.approx(2.0)


@pytest.mark.parametrize(
    "got",
    [
        [],
        [ONE, ONE],
        [ONE[:1]],
        [np.where(ONE > 0, np.nan, ONE)],
        [np.where(ONE > 0, np.inf, ONE)],
    ],
    ids=["no output", "one too many", "other shape", "nan", "infinity"],
)
def test_what_cannot_be_compared_is_infinitely_wrong(got: list[np.ndarray]) -> None:
    assert relative_error(got, [ONE]) == float("inf")


def test_nan_in_the_reference_must_be_matched() -> None:
    reference = ONE.copy()
    reference[0, 0] = np.nan
    assert relative_error([reference], [reference]) == 0.0
    assert relative_error([ONE], [reference]) == float("inf")
