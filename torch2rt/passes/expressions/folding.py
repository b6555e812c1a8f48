"""Folding of constants inside an expression, in float64.

    Before: mul(add(mul(x, s1), t1), s2)          three operations, three constant tensors
    After:  add(mul(x, s1 * s2), t1 * s2)         two operations, two constant tensors

so that batch norm, bias and scales behind a convolution become one scale and one shift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from torch2rt import expression as ex
from torch2rt.network.dtype import Array
from torch2rt.passes.expressions.dtypes import Operand, natural_dtype

_AFFINE_OPS = {"add", "sub", "mul", "div", "neg"}


@dataclass(frozen=True)
class Folded:
    """An expression whose inputs from ``first_new`` on are the arrays of ``added``, by role."""

    expression: ex.Expression
    added: tuple[tuple[str, Array], ...]


def fold(
    expression: ex.Expression,
    operands: Sequence[Operand],
    constants: Mapping[int, Array],
    *,
    scale_first: bool = False,
) -> Folded:
    """Evaluate what is constant and shorten chains of additions and multiplications.

    ``constants`` are the known inputs in float64. ``scale_first`` also turns
    ``mul(add(i0, b), s)`` into ``add(mul(i0, s), b * s)``, which a convolution can take into its
    weights. Products and sums that are not finite, or larger than their operands, are left.
    """
    folder = _Folder(tuple(operands), dict(constants), scale_first)
    return Folded(folder.visit(expression), tuple(folder.added))


@dataclass(frozen=True)
class _Affine:
    """base * scale + shift, written with so many operations."""

    base: ex.Expression
    scale: Array
    shift: Array
    operations: int


class _Folder:
    """One run over one expression; keeps the constants it adds."""

    def __init__(
        self, operands: tuple[Operand, ...], constants: dict[int, Array], scale_first: bool
    ) -> None:
        self.operands = operands
        self.constants = constants
        self.scale_first = scale_first
        self.added: list[tuple[str, Array]] = []

    def visit(self, node: ex.Expression) -> ex.Expression:
        """The node with its arguments folded, then folded itself."""
        if not isinstance(node, ex.Apply):
            return node
        node = ex.Apply(node.op, tuple(self.visit(argument) for argument in node.arguments))
        if self._is_known(node):
            return self._evaluated(node)
        if node.op in ("add", "mul") and self._value(node.arguments[0]) is not None:
            node = ex.Apply(node.op, node.arguments[::-1])
        if node.op in _AFFINE_OPS:
            return self._shortened(node)
        return node

    def _is_known(self, node: ex.Apply) -> bool:
        known = [self._value(argument) is not None for argument in node.arguments]
        return all(known) and any(isinstance(a, ex.Input) for a in node.arguments)

    def _value(self, node: ex.Expression) -> Array | None:
        """The constant value of a leaf, None if it has none."""
        match node:
            case ex.Constant(value):
                return np.asarray(value, np.float64)
            case ex.Input(index):
                return self.constants.get(index)
        return None

    def _evaluated(self, node: ex.Apply) -> ex.Expression:
        dtype = natural_dtype(node, self._all_operands())
        indices = [a.index for a in node.arguments if isinstance(a, ex.Input)]
        inputs = {index: torch.from_numpy(self.constants[index]) for index in indices}
        count = max(inputs) + 1
        padded = [inputs.get(index, torch.zeros(1)) for index in range(count)]
        if dtype is None or not dtype.is_float:
            return node
        value = ex.evaluate_torch(node, padded).numpy()
        if value.size > max(self.constants[index].size for index in indices):
            return node
        return self._constant("constant", value)

    def _all_operands(self) -> tuple[Operand, ...]:
        """Operands, those of added constants included."""
        float_operand = next(o for o in self.operands if o[0].is_float)
        return self.operands + (((float_operand[0], False),) * len(self.added))

    def _shortened(self, node: ex.Apply) -> ex.Expression:
        affine = self._affine(node)
        if affine.operations == 0 or affine.base is node or not self._is_float(node):
            return node
        has_scale = bool(np.any(affine.scale != 1))
        has_shift = bool(np.any(affine.shift != 0))
        is_shorter = has_scale + has_shift < affine.operations
        starts_at_result = self.scale_first and affine.base == ex.Input(0)
        can_be_reordered = starts_at_result and _adds_first(node)
        if not is_shorter and not can_be_reordered and not self._takes_away(node):
            return node
        result = affine.base
        if has_scale:
            result = ex.Apply("mul", (result, self._constant("scale", affine.scale)))
        if has_shift:
            result = ex.Apply("add", (result, self._constant("shift", affine.shift)))
        return result

    def _is_float(self, node: ex.Apply) -> bool:
        dtype = natural_dtype(node, self._all_operands())
        return dtype is not None and dtype.is_float

    def _affine(self, node: ex.Expression) -> _Affine:
        """The longest chain of additions and multiplications by constants that ends here."""
        nothing = _Affine(node, np.ones(()), np.zeros(()), 0)
        if not isinstance(node, ex.Apply) or node.op not in _AFFINE_OPS:
            return nothing
        step = self._step(node)
        if step is None:
            return nothing
        argument, scale, shift = step
        inner = self._affine(argument)
        result = _Affine(
            inner.base, inner.scale * scale, inner.shift * scale + shift, inner.operations + 1
        )
        parts = (inner.scale, inner.shift, scale, shift)
        is_finite = np.isfinite(result.scale).all() and np.isfinite(result.shift).all()
        largest = max(part.size for part in parts)
        if not is_finite or max(result.scale.size, result.shift.size) > largest:
            return nothing
        return result

    def _step(self, node: ex.Apply) -> tuple[ex.Expression, Array, Array] | None:
        """(argument, scale, shift) of one operation."""
        one, zero = np.ones(()), np.zeros(())
        if node.op == "neg":
            return node.arguments[0], -one, zero
        left, right = node.arguments
        a, b = self._value(left), self._value(right)
        if a is not None and b is None and node.op == "sub":
            return right, -one, a
        if a is not None or b is None:
            return None
        with np.errstate(divide="ignore"):
            scale, shift = {
                "add": (one, b), "sub": (one, -b), "mul": (b, zero), "div": (1 / b, zero),
            }[node.op]
        return left, scale, shift

    def _takes_away(self, node: ex.Apply) -> bool:
        """Whether the node is x - c or x / c."""
        return node.op in ("sub", "div") and self._value(node.arguments[1]) is not None

    def _constant(self, role: str, value: Array) -> ex.Expression:
        """A literal if all elements are equal, else an input for a constant to be added."""
        flat = value.reshape(-1)
        if flat.size and (flat == flat[0]).all():
            return ex.Constant(float(flat[0]))
        index = len(self.operands) + len(self.added)
        self.added.append((role, value))
        self.constants[index] = value
        return ex.Input(index)


def _adds_first(node: ex.Apply) -> bool:
    """Whether the chain multiplies after it added."""
    return node.op in ("mul", "div") and any(
        isinstance(argument, ex.Apply) and argument.op in ("add", "sub")
        for argument in node.arguments
    )
