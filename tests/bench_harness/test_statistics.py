import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch2rt.bench.statistics import median, quantile, summarise

TIMES = st.lists(st.floats(0, 1e6), min_size=1, max_size=40)


@given(TIMES, st.floats(0, 1))
def test_quantile_is_numpys(values: list[float], q: float) -> None:
    assert quantile(values, q) == pytest.approx(np.quantile(values, q), rel=1e-9, abs=1e-9)


@given(TIMES)
def test_median_ignores_order(values: list[float]) -> None:
    assert median(values) == median(list(reversed(values)))


def test_one_slow_round_does_not_move_the_median() -> None:
    assert summarise([2.0, 1.0, 1000.0, 3.0, 2.0]).median_ms == 2.0


def test_summary_has_the_spread() -> None:
    summary = summarise([float(value) for value in range(101)])
    assert (summary.p10_ms, summary.median_ms, summary.p90_ms) == (10.0, 50.0, 90.0)
    assert summary.rounds == 101


def test_no_rounds_is_an_error() -> None:
    with pytest.raises(ValueError, match="quantile of no values"):
        summarise([])


@pytest.mark.parametrize("q", [-0.1, 1.1])
def test_q_outside_its_range_is_an_error(q: float) -> None:
    with pytest.raises(ValueError, match="not between 0 and 1"):
        quantile([1.0], q)
