"""The cheapest choice against trying every one."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torch2rt.build import select
from torch2rt.build.select import Costs, cheapest, total_cost

fuzz = settings(max_examples=200, deadline=None, derandomize=True, database=None)
Problem = tuple[list[Costs], dict[tuple[int, int], Costs]]


def cost(unary: list[Costs], pairwise: dict[tuple[int, int], Costs], choice: list[int]) -> float:
    """The cost by the definition, not by `total_cost`."""
    total = 0.0
    for i, option in enumerate(choice):
        total += unary[i][option]
    for (i, j), table in pairwise.items():
        total += table[choice[i]][choice[j]]
    return float(total)


def least(unary: list[Costs], pairwise: dict[tuple[int, int], Costs]) -> float:
    """The least cost of all choices."""
    choices = itertools.product(*(range(len(costs)) for costs in unary))
    return min(cost(unary, pairwise, list(choice)) for choice in choices)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Up to 6 variables of up to 3 options with any pairs, in either order, some forbidden."""
    counts = draw(st.lists(st.integers(1, 3), max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    unary = [rng.integers(0, 20, count).astype(float) for count in counts]
    pairwise: dict[tuple[int, int], Costs] = {}
    for pair in itertools.permutations(range(len(counts)), 2):
        if draw(st.integers(0, 2)) == 0:
            table = rng.integers(0, 20, [counts[pair[0]], counts[pair[1]]]).astype(float)
            table[rng.random(table.shape) < draw(st.sampled_from([0.0, 0.2]))] = math.inf
            pairwise[pair] = table
    return unary, pairwise


@fuzz
@given(problems())
def test_it_is_the_least_of_all_choices(problem: Problem) -> None:
    choice = cheapest(*problem)
    assert len(choice) == len(problem[0])
    assert cost(*problem, choice) == least(*problem)
    assert total_cost(*problem, choice) == cost(*problem, choice)


def test_nothing_to_choose() -> None:
    assert cheapest([], {}) == []
    assert cheapest([np.array([3.0, 1.0, 2.0])], {}) == [1]


def test_a_reformat_that_costs_more_than_it_saves_is_not_bought() -> None:
    fast_blocked = [np.array([10.0, 8.0]), np.array([1.0, 5.0]), np.array([10.0, 8.0])]
    reformat = np.array([[0.0, 3.0], [3.0, 0.0]])
    assert cheapest(fast_blocked, {(0, 1): reformat, (1, 2): reformat}) == [0, 0, 0]
    assert cheapest(fast_blocked, {(0, 1): reformat / 10, (1, 2): reformat / 10}) == [1, 0, 1]


def test_a_costly_choice_far_away_decides() -> None:
    count = 200
    unary = [np.array([1.0, 1.0]) for _ in range(count)]
    unary[-1] = np.array([0.0, 50.0])
    unary[0] = np.array([60.0, 0.0])
    same = np.array([[0.0, 1000.0], [1000.0, 0.0]])
    chain = {(i, i + 1): same for i in range(count - 1)}
    assert cheapest(unary, chain) == [1] * count


def grid(width: int, options: int) -> Problem:
    rng = np.random.default_rng(0)
    unary = [rng.random(options) for _ in range(width * width)]
    pairwise = {}
    for y, x in itertools.product(range(width), repeat=2):
        for other in ((y + 1, x), (y, x + 1)):
            if max(other) < width:
                pairwise[y * width + x, other[0] * width + other[1]] = rng.random((options,) * 2)
    return unary, pairwise


def test_a_graph_too_dense_to_be_exact_still_gets_a_local_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unary, pairwise = grid(5, 3)
    exact = total_cost(unary, pairwise, cheapest(unary, pairwise))
    monkeypatch.setattr(select, "_LARGEST_TABLE", 10)
    choice = cheapest(unary, pairwise)
    found = cost(unary, pairwise, choice)
    assert exact <= found <= 1.3 * exact
    for variable, costs in enumerate(unary):
        for option in range(len(costs)):
            other = [*choice[:variable], option, *choice[variable + 1:]]
            assert cost(unary, pairwise, other) >= found - 1e-6


@pytest.mark.parametrize("better", [0, 1])
def test_descent_keeps_the_best_of_its_starts(
    monkeypatch: pytest.MonkeyPatch, better: int
) -> None:
    monkeypatch.setattr(select, "_LARGEST_TABLE", 0)
    unary = [np.array([1.0, 1.0]) for _ in range(3)]
    unary[0][better] = 0.0
    same = np.array([[0.0, 9.0], [9.0, 0.0]])
    assert cheapest(unary, {(0, 1): same, (1, 2): same, (0, 2): same}) == [better] * 3


@fuzz
@given(problems())
def test_descent_alone_gives_a_choice_for_every_problem(problem: Problem) -> None:
    unary, pairwise = problem
    everything = [((i,), costs) for i, costs in enumerate(unary)] + list(pairwise.items())
    if unary:
        choice = select._descend(range(len(unary)), everything, unary)
        assert cost(unary, pairwise, [choice[i] for i in range(len(unary))]) >= least(*problem)


def test_a_large_network_takes_no_time() -> None:
    rng = np.random.default_rng(0)
    unary = [rng.random(6) for _ in range(1500)]
    pairwise = {(i, i + 1): rng.random((6, 6)) for i in range(1499)}
    pairwise |= {(i, i + 4): rng.random((6, 6)) for i in range(0, 1490, 4)}
    start = time.perf_counter()
    cheapest(unary, pairwise)
    assert time.perf_counter() - start < 10
