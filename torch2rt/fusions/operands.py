"""Expressions together with the tensors they read, as fusions take them apart and join them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from torch2rt import expression as ex
from torch2rt.fusions.rewrite import add_constant, values_of
from torch2rt.network.dtype import Array, DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor, TensorType
from torch2rt.passes.expressions.dtypes import natural_dtype, operand
from torch2rt.passes.expressions.folding import fold
from torch2rt.passes.expressions.order import accumulator_first
from torch2rt.passes.expressions.simplify import simplify

MAX_SIZE = 64
MAX_INPUTS = 8

_FOLDED_DTYPES = (DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16)
_LITERAL_DTYPES = (*_FOLDED_DTYPES, DType.INT64, DType.BOOL)


@dataclass(frozen=True)
class NewConstant:
    """A constant that does not exist yet: its role in the expression and its values."""

    role: str
    values: Array


@dataclass(frozen=True)
class Bound:
    """An expression and its operands. In an epilogue ``i0`` is the result it is applied to.

    ``operands`` are tensors, or constants yet to be added.
    """

    expression: ex.Expression
    operands: tuple[Tensor | NewConstant, ...]

    def tensors(self, network: Network, layer: Layer) -> tuple[Tensor, ...]:
        """The operands, new constants added in the name of a layer."""
        return tuple(
            item if isinstance(item, Tensor)
            else add_constant(network, f"{layer.name}.{item.role}", item.values, DType.FLOAT32)
            for item in self.operands
        )


def result_of(layer: Layer) -> Tensor:
    """A stand-in for ``i0`` of a layer's epilogue: its shape, in the dtype it is computed in."""
    (accumulator,) = layer.kind.infer([tensor.type for tensor in layer.main_inputs])
    return Tensor(layer.output.name, TensorType(layer.output.shape, accumulator.dtype))


def joined(
    expression: ex.Expression, operands: Sequence[Tensor | NewConstant], fixed: int = 0
) -> Bound:
    """Operands that are used, each once, numbered in the order the expression reads them.

    The first ``fixed`` operands keep their places.
    """
    order = [node.index for node in ex.walk(expression) if isinstance(node, ex.Input)]
    kept: list[Tensor | NewConstant] = list(operands[:fixed])
    numbers = {index: index for index in range(fixed)}
    for index in order:
        if index in numbers:
            continue
        same = next(
            (i for i, item in enumerate(kept) if i >= fixed and item is operands[index]), None
        )
        numbers[index] = len(kept) if same is None else same
        if same is None:
            kept.append(operands[index])
    renumbered = ex.substitute_inputs(
        expression, {old: ex.Input(new) for old, new in numbers.items()}
    )
    return Bound(renumbered, tuple(kept))


def simplified(bound: Bound, fixed: int = 0, *, scale_first: bool = False) -> Bound:
    """The expression simplified, scalar constants written as literals, constants folded."""
    tensors = [item for item in bound.operands if isinstance(item, Tensor)]
    types = tuple(operand(tensor) for tensor in tensors)
    expression = simplify(_with_literals(bound.expression, tensors, fixed), types)
    known = {index for index, tensor in enumerate(tensors) if tensor.is_constant}
    if fixed:
        expression = accumulator_first(expression, known)
    constants = {
        index: values_of(tensor)
        for index, tensor in enumerate(tensors)
        if index >= fixed and tensor.is_constant and tensor.dtype in _FOLDED_DTYPES
    }
    items: list[Tensor | NewConstant] = list(tensors)
    if constants or scale_first:
        folded = fold(expression, types, constants, scale_first=scale_first)
        if folded.expression != expression:
            items += [NewConstant(role, values) for role, values in folded.added]
            added = ((DType.FLOAT32, False),) * len(folded.added)
            expression = simplify(folded.expression, types + added)
    return joined(expression, items, fixed)


def _with_literals(
    expression: ex.Expression, tensors: Sequence[Tensor], fixed: int
) -> ex.Expression:
    literals = {
        index: ex.Constant(value)
        for index, tensor in enumerate(tensors)
        if index >= fixed and (value := _literal(tensor)) is not None
    }
    zero_points = {
        index: ex.Constant(float(tensor.data.item()))
        for index, tensor in enumerate(tensors)
        if index >= fixed and tensor.data is not None and tensor.data.size == 1
        and tensor.dtype is DType.INT32
    }
    if not literals and not zero_points:
        return expression
    types = tuple(operand(tensor) for tensor in tensors)
    result = ex.substitute_inputs(_with_floats(expression, zero_points), literals)
    return result if _same_dtype(result, expression, types) else expression


def _with_floats(
    expression: ex.Expression, integers: Mapping[int, ex.Constant]
) -> ex.Expression:
    """Integers that are converted to float32, as zero points are, as literals."""
    match expression:
        case ex.Apply("to_float32", (ex.Input(index),)) if index in integers:
            return integers[index]
        case ex.Apply(op, arguments):
            return ex.Apply(op, tuple(_with_floats(item, integers) for item in arguments))
    return expression


def _same_dtype(
    new: ex.Expression, old: ex.Expression, types: tuple[tuple[DType, bool], ...]
) -> bool:
    return natural_dtype(new, types) == natural_dtype(old, types)


def _literal(tensor: Tensor) -> float | int | bool | None:
    """The value of a constant of one element that promotes as a literal does."""
    if tensor.data is None or tensor.data.size != 1 or tensor.dtype not in _LITERAL_DTYPES:
        return None
    if not tensor.dtype.is_float:
        scalar: int | bool = tensor.data.item()
        return scalar if tensor.rank == 0 else None
    value = float(values_of(tensor).item())
    return None if np.isnan(value) else value
