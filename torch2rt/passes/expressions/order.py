"""The order of terms in an epilogue: the accumulator first, constants next to it."""

from __future__ import annotations

from collections.abc import Collection

from torch2rt import expression as ex

_COMMUTATIVE = {"add", "mul", "max", "min"}
_RESULT = ex.Input(0)


def accumulator_first(expression: ex.Expression, constants: Collection[int]) -> ex.Expression:
    """The same value as a chain on ``i0`` where that is possible by exchanging terms.

    ``constants`` are the indices of constant operands. Example, with i2 constant:
    ``relu(add(i1,add(i0,i2)))`` is ``relu(add(add(i0,i2),i1))``, and so is
    ``relu(add(add(i0,i1),i2))``.
    """
    if not isinstance(expression, ex.Apply):
        return expression
    arguments = tuple(accumulator_first(a, constants) for a in expression.arguments)
    if expression.op not in _COMMUTATIVE:
        return ex.Apply(expression.op, arguments)
    left, right = arguments
    if _reads_result(right) and not _reads_result(left):
        left, right = right, left
    if not _is_constant(right, constants):
        return ex.Apply(expression.op, (left, right))
    match left:
        case ex.Apply("add" | "mul" as op, (inner, other)) if (
            op == expression.op and _reads_result(inner) and not _is_constant(other, constants)
        ):
            moved = accumulator_first(ex.Apply(op, (inner, right)), constants)
            return ex.Apply(op, (moved, other))
    return ex.Apply(expression.op, (left, right))


def _reads_result(expression: ex.Expression) -> bool:
    return any(node == _RESULT for node in ex.walk(expression))


def _is_constant(expression: ex.Expression, constants: Collection[int]) -> bool:
    match expression:
        case ex.Constant():
            return True
        case ex.Input(index):
            return index in constants
    return False
