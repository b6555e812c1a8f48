"""Which candidates race again under load, and what that makes of their times."""

from __future__ import annotations

import pytest

pytest.importorskip("cupy", reason="the timer is written with CuPy")

from torch2rt.backends.cuda.timing import finalists, settled


def test_close_candidates_of_a_heavy_layer_race_again() -> None:
    assert finalists([103.0, 100.0, 140.0, 105.0], range(4)) == [1, 0, 3]


def test_four_race_at_most() -> None:
    assert finalists([100.0, 101.0, 102.0, 103.0, 104.0], range(5)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "times_us",
    [[30.0, 30.1], [100.0, 120.0], [100.0], []],
    ids=["light", "nobody is close", "alone", "none"],
)
def test_others_are_decided_by_their_times(times_us: list[float]) -> None:
    assert finalists(times_us, range(len(times_us))) == []


def test_what_did_not_race_is_no_finalist() -> None:
    assert finalists([100.0, float("inf"), 101.0], [0, 2]) == [0, 2]


def test_load_decides_among_finalists() -> None:
    times = settled([98.0, 99.0, 140.0], {0: 120.0, 1: 115.0})
    assert times == pytest.approx([98.0 * 120 / 115, 98.0, 140.0])


def test_times_stay_without_finalists() -> None:
    assert settled([10.0, 11.0], {}) == [10.0, 11.0]
