"""The cheapest choice of options: each variable costs something itself, and each pair too.

Layers are variables, their layout choices the options; a reformat between two layers is the cost
of a pair. Solved exactly by eliminating variables, fewest neighbours first, while the tables stay
small; the rest by coordinate descent from several starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Costs: TypeAlias = NDArray[np.float64]
_LARGEST_TABLE = 200_000


def cheapest(unary: Sequence[Costs], pairwise: Mapping[tuple[int, int], Costs]) -> list[int]:
    """Option index per variable with the least total cost.

    ``unary[i]`` has one cost per option of variable i; ``pairwise[i, j]`` has shape
    [options of i, options of j].
    """
    factors: list[tuple[tuple[int, ...], Costs]] = [
        ((i,), np.asarray(costs, np.float64)) for i, costs in enumerate(unary)
    ]
    factors += [(pair, np.asarray(costs, np.float64)) for pair, costs in pairwise.items()]
    choice: dict[int, int] = {}
    eliminated: list[tuple[int, tuple[int, ...], NDArray[Any]]] = []
    remaining = set(range(len(unary)))
    neighbours = _neighbours(pairwise, len(unary))
    by_variable: dict[int, list[int]] = {i: [] for i in remaining}
    for number, (variables, _) in enumerate(factors):
        for variable in variables:
            by_variable[variable].append(number)
    dead: set[int] = set()
    while remaining:
        variable = min(remaining, key=lambda i: (len(neighbours[i]), i))
        scope = tuple(sorted(neighbours[variable]))
        table_size = len(unary[variable])
        for other in scope:
            table_size *= len(unary[other])
        if table_size > _LARGEST_TABLE:
            break
        touching = [n for n in by_variable[variable] if n not in dead]
        table = _joined([factors[n] for n in touching], (*scope, variable), unary)
        eliminated.append((variable, scope, table.argmin(axis=-1)))
        dead.update(touching)
        factors.append((scope, table.min(axis=-1)))
        for other in scope:
            by_variable[other].append(len(factors) - 1)
            neighbours[other] |= set(scope) - {other}
            neighbours[other].discard(variable)
        remaining.discard(variable)
    if remaining:
        alive = [factor for n, factor in enumerate(factors) if n not in dead and factor[0]]
        choice.update(_descend(sorted(remaining), alive, unary))
    for variable, scope, best in reversed(eliminated):
        choice[variable] = int(best[tuple(choice[other] for other in scope)])
    return [choice[i] for i in range(len(unary))]


def total_cost(
    unary: Sequence[Costs], pairwise: Mapping[tuple[int, int], Costs], choice: Sequence[int]
) -> float:
    """The cost of a choice."""
    own = sum(float(costs[option]) for costs, option in zip(unary, choice, strict=True))
    return own + sum(float(costs[choice[i], choice[j]]) for (i, j), costs in pairwise.items())


def _neighbours(pairwise: Mapping[tuple[int, int], Costs], count: int) -> dict[int, set[int]]:
    neighbours: dict[int, set[int]] = {i: set() for i in range(count)}
    for i, j in pairwise:
        neighbours[i].add(j)
        neighbours[j].add(i)
    return neighbours


def _joined(
    factors: Sequence[tuple[tuple[int, ...], Costs]], scope: tuple[int, ...], unary: Sequence[Costs]
) -> Costs:
    """Sum of factors as one table with an axis per variable of ``scope``."""
    table = np.zeros([len(unary[variable]) for variable in scope])
    for variables, costs in factors:
        order = sorted(range(len(variables)), key=lambda axis: scope.index(variables[axis]))
        shape = [1] * len(scope)
        for axis in range(len(variables)):
            shape[scope.index(variables[axis])] = costs.shape[axis]
        table = table + costs.transpose(order).reshape(shape)
    return table


def _descend(
    variables: Sequence[int],
    factors: Sequence[tuple[tuple[int, ...], Costs]],
    unary: Sequence[Costs],
) -> dict[int, int]:
    """Coordinate descent from every uniform start; the best end."""
    touching = {v: [f for f in factors if v in f[0]] for v in variables}
    best: tuple[float, dict[int, int]] | None = None
    for start in range(max(len(unary[v]) for v in variables)):
        choice = {v: min(start, len(unary[v]) - 1) for v in variables}
        changed = True
        while changed:
            changed = False
            for v in variables:
                costs = np.zeros(len(unary[v]))
                for scope, table in touching[v]:
                    key = tuple(slice(None) if u == v else choice[u] for u in scope)
                    costs = costs + table[key]
                option = int(costs.argmin())
                if costs[option] < costs[choice[v]] - 1e-9:
                    choice[v] = option
                    changed = True
        cost = sum(float(table[tuple(choice[u] for u in scope)]) for scope, table in factors)
        if best is None or cost < best[0]:
            best = (cost, choice)
    assert best is not None
    return best[1]
