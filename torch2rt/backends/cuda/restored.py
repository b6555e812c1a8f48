"""Matmuls with weights stored in 8 bits as matmuls of the floats that those stand for.

Before: y = gelu(add(mul(i0,i1),i2)) of x w8, with i1 the scales [n]
After:  y = gelu(add(i0,i2)) of x w, with w = w8 * i1 in the dtype of x

For libraries that cannot scale columns. Weights are rounded as a float model's are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from torch2rt import expression as ex
from torch2rt.backends.cuda.constants import convert
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Job, Unprepared, Weights
from torch2rt.backends.unpacked import UnpackedTactic, unpacked_spec
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import Array, DType


class RestoredTactic(UnpackedTactic):
    """A tactic for float weights, ``over``, that is given the weights with their scales in them."""

    def inner(self, spec: LayerSpec) -> LayerSpec:
        """The layer of float weights, without scales if it has them as `scale_index` finds."""
        index, unpacked = scale_index(spec), unpacked_spec(spec)
        return unpacked if index is None else unscaled_spec(unpacked, index)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """As the tactic for floats, scales among the operands."""
        return self.over.layouts(unpacked_spec(spec))

    def unpack(self, spec: LayerSpec, weights: Weights, name: str) -> Weights:
        """Those weights."""
        index, kind = scale_index(spec), spec.kind
        scale = spec.constants[index] if index is not None else None
        if scale is None or not isinstance(kind, Matmul):
            return super().unpack(spec, weights, name)
        return RestoredWeights(weights, name, scale, kind.transpose_b, spec.inputs[0].dtype)


def scale_index(spec: LayerSpec) -> int | None:
    """The input that is a constant number or vector [n], and the product's factor wherever that is.

    None if there is none, or if it has other uses too.
    """
    if spec.epilogue is None:
        return None
    found: set[int] = set()
    nodes = [node for node in ex.walk(spec.epilogue) if isinstance(node, ex.Apply)]
    for node in nodes:
        match node:
            case ex.Apply("mul", (ex.Input(index=0), ex.Input(index=other))) if other:
                found.add(other)
            case ex.Apply("mul", (ex.Input(index=other), ex.Input(index=0))) if other:
                found.add(other)
            case _ if ex.Input(0) in node.arguments:
                return None
    if len(found) != 1:
        return None
    scale = ex.Input(found.pop())
    if any(scale in node.arguments and ex.Input(0) not in node.arguments for node in nodes):
        return None
    index = spec.main_count + scale.index - 1
    operand, columns = spec.inputs[index], spec.outputs[0].shape[-1]
    is_row = operand.element_count == 1 or (
        operand.element_count == columns and operand.shape[-1] == columns
    )
    is_constant = spec.constants[index] is not None and operand.dtype is DType.FLOAT32
    return index if is_row and is_constant else None


def unscaled_spec(spec: LayerSpec, index: int) -> LayerSpec:
    """The layer whose epilogue does not scale by that input; operands keep their places."""
    assert spec.epilogue is not None
    scale = ex.Input(index - spec.main_count + 1)
    epilogue = _without(spec.epilogue, scale)
    kept = len(spec.inputs)
    if index == kept - 1:  # of operands, the last is one that the epilogue reads
        kept -= 1
    return replace(
        spec, epilogue=None if epilogue == ex.Input(0) else epilogue, inputs=spec.inputs[:kept],
        constants=spec.constants[:kept],
    )


def _without(expression: ex.Expression, scale: ex.Input) -> ex.Expression:
    """The expression with the product in place of the product times its scale."""
    if not isinstance(expression, ex.Apply):
        return expression
    if set(expression.arguments) == {ex.Input(0), scale}:
        return ex.Input(0)
    return ex.Apply(expression.op, tuple(_without(x, scale) for x in expression.arguments))


class RestoredWeights(Weights):
    """The weights of a layer, of which the constant ``name`` is times its scales, and a float."""

    def __init__(
        self, weights: Weights, name: str, scale: str, is_transposed: bool, dtype: DType
    ) -> None:
        self._weights = weights
        self._name = name
        self._scale = scale
        self._is_transposed = is_transposed
        self._dtype = dtype

    def array(self, name: str) -> Array:
        """A constant's data. Unprepared for weights beyond what their dtype holds."""
        array = self._weights.array(name)
        if name != self._name:
            return array
        scales = self._weights.array(self._scale).reshape((-1, 1) if self._is_transposed else -1)
        restored = convert(array * scales, DType.FLOAT32, self._dtype)
        if self._dtype is DType.FLOAT16 and not bool(np.isfinite(restored).all()):
            raise Unprepared("weights beyond the largest number of float16")
        return restored

    def packed(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """Packed forms of what is restored have keys of their own; others are shared."""
        own = ("restored", self._scale, self._dtype, *key)
        return self._weights.packed(own if self._name in key else key, make)

    def blob(self, key: str, job: Job) -> bytes:
        """Those of the engine: a key says what the code depends on."""
        return self._weights.blob(key, job)
