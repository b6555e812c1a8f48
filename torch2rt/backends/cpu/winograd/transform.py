"""Winograd's transforms of one tile: y = AT [(G w GT) * (BT d B)] A.

m outputs of a 3-tap filter come from n = m + 2 inputs, as products of polynomials evaluated at
n - 1 points and at infinity. BT holds the monic polynomials that vanish at all points but one, so
the division by their value there goes to G, which is applied once, when weights are packed.

The points of F(4, 3) are 0, +-1/sqrt(2), +-sqrt(2): a product of 1 keeps the coefficients small,
and the error, 1.1e-6 of one layer's norm, is half that of the usual 0, +-1, +-2 (2.3e-6).
Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from torch2rt.backends.cpu.jit import Function
from torch2rt.network.dtype import Array

POINTS: dict[int, tuple[float, ...]] = {
    2: (0.0, 1.0, -1.0),
    4: (0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2.0), -math.sqrt(2.0)),
}


def input_matrix(m: int) -> Array:
    """BT, float64 [n, n]."""
    points = POINTS[m]
    size = len(points) + 1
    matrix = np.zeros((size, size))
    for row, point in enumerate(points):
        others = [p for p in points if p != point]
        matrix[row, : size - 1] = np.poly(others)[::-1]
    matrix[size - 1] = np.poly(points)[::-1]
    matrix[np.abs(matrix) < 1e-12] = 0.0
    # P(x) for point p is P(-x) for -p: said exactly, for the parts that the two rows share.
    matrix[2 : size - 1 : 2] = matrix[1 : size - 1 : 2] * (-1.0) ** np.arange(size)
    return matrix


def output_matrix(m: int) -> Array:
    """AT, float64 [m, n]."""
    powers = np.vander(np.array(POINTS[m]), m, increasing=True).T
    return np.concatenate([powers, np.eye(m)[:, -1:]], axis=1)


def weight_matrix(m: int) -> Array:
    """G, float64 [n, 3]."""
    points = POINTS[m]
    rows = []
    for point in points:
        value = math.prod(point - other for other in points if other != point)
        rows.append([point**power / value for power in range(3)])
    matrix = np.array([*rows, [0.0, 0.0, 1.0]])
    # Said exactly, as in `input_matrix`.
    matrix[2:-1:2] = matrix[1:-1:2] * (-1.0) ** np.arange(3)
    return matrix


def apply_input(function: Function, m: int, d: Sequence[str]) -> list[str]:
    """BT d: rows for points +-p share their even and odd parts."""
    return _apply_paired(function, input_matrix(m), d)


def apply_weight(function: Function, m: int, taps: Sequence[str]) -> list[str]:
    """G w."""
    return _apply_paired(function, weight_matrix(m), taps)


def _apply_paired(function: Function, matrix: Array, d: Sequence[str]) -> list[str]:
    """Matrix d, where rows 1 and 2, 3 and 4, ... differ in the sign of some terms alone."""
    last = len(matrix) - 1
    results = [combine(function, matrix[0], d)]
    for row in range(1, last, 2):
        same = np.where(matrix[row] == matrix[row + 1], matrix[row], 0.0)
        other = matrix[row] - same
        even, odd = combine(function, same, d), combine(function, other, d)
        results.append(function.math("fadd", even, odd))
        results.append(function.math("fsub", even, odd))
    return [*results, combine(function, matrix[last], d)]


def apply_output(function: Function, m: int, d: Sequence[str]) -> list[str]:
    """AT d: sums and differences of the values at +-p are made once."""
    matrix = output_matrix(m)
    last = len(d) - 1
    pairs = range(1, last, 2)
    sums = [function.math("fadd", d[i], d[i + 1]) for i in pairs]
    differences = [function.math("fsub", d[i], d[i + 1]) for i in pairs]
    results = []
    for row in range(m):
        parts = differences if row % 2 else sums
        terms = [d[0], *parts, d[last]]
        factors = [matrix[row, 0], *(matrix[row, i] for i in pairs), matrix[row, last]]
        results.append(combine(function, factors, terms))
    return results


def combine(function: Function, factors: Sequence[float] | Array, terms: Sequence[str]) -> str:
    """The sum of factor * term over the factors that are not 0: units first, then fma."""
    used = [(float(f), t) for f, t in zip(factors, terms, strict=True) if f != 0.0]
    used.sort(key=lambda item: item[0] != 1.0)
    factor, term = used[0]
    total = term if factor == 1.0 else function.math("fmul", term, function.constant(factor))
    for factor, term in used[1:]:
        if factor == 1.0:
            total = function.math("fadd", total, term)
        elif factor == -1.0:
            total = function.math("fsub", total, term)
        else:
            total = function.intrinsic("fma", term, function.constant(factor), total)
    return total
