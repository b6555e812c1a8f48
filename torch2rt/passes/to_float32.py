"""One precision to start from: what a model computes in other floats is computed in float32.

Before: x: f16 -> conv(x: f16, w: f16) -> y: f16 -> output
After:  to_float32(x) -> conv(x: f32, w: f32) -> y: f32 -> to_float16 -> output

Calibration and the insertion of 8 bits start from float32 tensors, and so does every precision
below float32; what stays float is lowered again afterwards. Network inputs and outputs keep their
dtypes. Kinds that do not take float32 for sure (fallbacks, plugins, random numbers) keep theirs,
between casts. Of float64, a number beyond the range, such as the least float64 of a mask, becomes
the largest that float32 holds; a weight beyond it is a PrecisionError.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection

import numpy as np

from torch2rt import expression as ex
from torch2rt.errors import PrecisionError
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.dtype import DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor, TensorType
from torch2rt.passes.base import Log, Pass
from torch2rt.passes.lower_precision import (
    FLOAT32_MAX,
    TOLERANT,
    WEIGHTED,
    convert_float,
    is_cast,
)

HALVES = (DType.FLOAT16, DType.BFLOAT16)
DOUBLES = (DType.FLOAT64,)
# Kinds that take float32, and a 16-bit float not for sure.
_TOLERANT_OF_FLOAT32 = TOLERANT | {"fill", "recurrent"}


def multiplies_doubles(network: Network) -> bool:
    """Whether a layer with weights computes in float64: such a model is one in double precision.

    Others have float64 where they know why, as in positions and counts.
    """
    return any(
        layer.kind.name in WEIGHTED and layer.outputs[0].dtype is DType.FLOAT64
        for layer in network.layers
    )


class ToFloat32(Pass):
    """Gives tolerant layers of some float dtypes float32 operands and results."""

    name = "to_float32"

    def __init__(self, dtypes: Collection[DType] = HALVES) -> None:
        self.dtypes = frozenset(dtypes)
        is_narrowing = DType.FLOAT64 in self.dtypes
        self._tolerant = _TOLERANT_OF_FLOAT32 if is_narrowing else TOLERANT

    def run(self, network: Network, log: Log) -> bool:
        """Insert casts at the borders; a second run finds nothing to do.

        PrecisionError names a weight that float32 cannot hold.
        """
        casts: dict[tuple[Tensor, DType], Tensor] = {}
        dtypes = {name: tensor.dtype for name, tensor in network.outputs.items()}
        before: dict[Tensor, DType] = {}  # of tensors that are float32 now
        changed = False
        for layer in network.layers:
            if is_cast(layer) or _is_to_float64(layer):
                continue
            is_tolerant = layer.kind.name in self._tolerant
            inputs = tuple(
                self._as_float32(network, tensor, casts, layer) if is_tolerant
                else self._as_before(network, tensor, before, casts, layer)
                for tensor in layer.inputs
            )
            if inputs != layer.inputs:
                network.set_inputs(layer, inputs)
                changed = True
            if is_tolerant:
                changed |= self._convert_results(network, layer, before)
        for name, tensor in network.outputs.items():
            if tensor in before and dtypes[name] in self.dtypes:
                network.outputs[name] = self._cast(network, tensor, dtypes[name], casts, None)
        return changed

    def _as_float32(
        self, network: Network, tensor: Tensor, casts: dict[tuple[Tensor, DType], Tensor],
        before: Layer,
    ) -> Tensor:
        if tensor.dtype not in self.dtypes:
            return tensor
        _check_range(tensor, before)
        return self._cast(network, tensor, DType.FLOAT32, casts, before)

    def _as_before(
        self, network: Network, tensor: Tensor, dtypes: dict[Tensor, DType],
        casts: dict[tuple[Tensor, DType], Tensor], before: Layer,
    ) -> Tensor:
        if tensor not in dtypes:
            return tensor
        return self._cast(network, tensor, dtypes[tensor], casts, before)

    def _cast(
        self, network: Network, tensor: Tensor, dtype: DType,
        casts: dict[tuple[Tensor, DType], Tensor], before: Layer | None,
    ) -> Tensor:
        if (tensor, dtype) not in casts:
            if tensor.data is not None:
                data = convert_float(tensor.data, tensor.dtype, dtype)
                made = network.add_constant(tensor.name, data, dtype)
            else:
                origins = tensor.producer.origins if tensor.producer is not None else ()
                made = network.add(
                    Pointwise(ex.cast(dtype, ex.Input(0)), dtype), [tensor], before=before,
                    name=f"{tensor.name}.{dtype.value}", origins=origins,
                ).output
            casts[tensor, dtype] = made
        return casts[tensor, dtype]


    def _convert_results(
        self, network: Network, layer: Layer, before: dict[Tensor, DType]
    ) -> bool:
        """Float32 instead of the other dtypes in a layer's attributes and results."""
        changed = False
        if DType.FLOAT64 in self.dtypes:
            changed |= _narrow_expression(network, layer)
        for field in dataclasses.fields(layer.kind):
            if getattr(layer.kind, field.name) in self.dtypes:
                network.set_kind(
                    layer, dataclasses.replace(layer.kind, **{field.name: DType.FLOAT32})
                )
                changed = True
        for output in layer.outputs:
            if output.dtype in self.dtypes:
                before[output] = output.dtype
                network.set_type(output, TensorType(output.shape, DType.FLOAT32))
                changed = True
        return changed


def _is_to_float64(layer: Layer) -> bool:
    return isinstance(layer.kind, Pointwise) and layer.kind.expression.text == "to_float64(i0)"


def _narrow_expression(network: Network, layer: Layer) -> bool:
    """Float32 in a layer's expression or epilogue."""
    if isinstance(layer.kind, Pointwise):
        narrowed = _narrowed(layer.kind.expression)
        kind = dataclasses.replace(layer.kind, expression=narrowed)
        if kind == layer.kind:
            return False
        network.set_kind(layer, kind)
        return True
    if layer.epilogue is None or (narrowed := _narrowed(layer.epilogue)) == layer.epilogue:
        return False
    network.set_epilogue(layer, narrowed, layer.epilogue_inputs)
    return True


def _narrowed(expression: ex.Expression) -> ex.Expression:
    """An expression with casts to float32 for those to float64, and its numbers within range."""
    match expression:
        case ex.Constant(float() as value) if FLOAT32_MAX < abs(value) < math.inf:
            return ex.Constant(math.copysign(FLOAT32_MAX, value))
        case ex.Apply(op, arguments):
            op = "to_float32" if op == "to_float64" else op
            return ex.Apply(op, tuple(map(_narrowed, arguments)))
    return expression


def _check_range(tensor: Tensor, layer: Layer) -> None:
    """PrecisionError for a weight that float32 cannot hold."""
    is_weight = layer.kind.name in WEIGHTED and tensor in layer.main_inputs
    if tensor.data is None or tensor.dtype is not DType.FLOAT64 or not is_weight:
        return
    largest = float(np.abs(tensor.data[np.isfinite(tensor.data)]).max(initial=0.0))
    if largest > FLOAT32_MAX:
        raise PrecisionError(
            precision="float32", constant=tensor.name, layer=layer.name, where=layer.where,
            reason=f"it holds {largest:.6g}, and float32 ends at {FLOAT32_MAX:.6g}",
            remedy='Use precision="fp32", which leaves a model in float64 as it is, or rescale it.',
        )
