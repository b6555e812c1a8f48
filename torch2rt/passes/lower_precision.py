"""Lower precision: float32 layers that tolerate it compute in bfloat16 or float16.

Before: conv(x: f32, w: f32) -> y: f32 -> output
After:  conv(to_bfloat16(x), w: bf16) -> y: bf16 -> to_float32 -> output

Network inputs and outputs keep their dtypes. Weights of convolutions, matmuls and embeddings are
stored in the low precision; small constants (biases, scales, norm parameters) stay float32, since
epilogues are computed in float32. Kinds not listed keep float32, between casts. What the model
itself computes in 16 bits stays as it is.

float16 ends at 65504, so there also stay float32: values that grow faster than their inputs
(squares, exponentials), sums and products over axes, and what is computed from those alone.
    x^2: f16 -> f32, mean: f32 -> f32, x * rsqrt(mean + eps): (f16, f32) -> f16
A number beyond the range, such as the -1e9 of a mask, becomes the largest that float16 holds; a
weight beyond it is a PrecisionError.

Calibration finds more: layers that read or write one of the tensors in ``wide`` stay float32, and
so do those of which ``is_kept`` says so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection

import numpy as np

from torch2rt import expression as ex
from torch2rt.errors import PrecisionError
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.reduce import Reduce
from torch2rt.network.dtype import Array, DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor, TensorType
from torch2rt.passes.base import Log, Pass
from torch2rt.passes.expressions.growth import growth

# Kinds that keep their meaning to rounding when their float operands are of low precision.
TOLERANT = frozenset({
    "adaptive_pool", "attention", "concat", "convolution", "deconvolution", "expand", "gather",
    "group_norm", "index", "layer_norm", "matmul", "pad", "pointwise", "pool", "reduce", "reshape",
    "resize", "roll", "slice", "slice_scatter", "softmax", "take", "transpose", "triangle",
})
# Kinds that take float32 constants beside operands of low precision: those are small, and kept.
TAKES_WIDE = frozenset({"group_norm", "layer_norm", "pointwise"})
# Kinds whose constant main inputs are weights, which must not be changed by more than rounding.
WEIGHTED = frozenset({"convolution", "deconvolution", "matmul", "take"})
FLOAT16_MAX = 65504.0
FLOAT32_MAX = float(np.finfo(np.float32).max)


class LowerPrecision(Pass):
    """Gives tolerant layers low-precision operands and results."""

    name = "lower_precision"

    def __init__(
        self, dtype: DType = DType.BFLOAT16, *, wide: Collection[str] = (),
        is_kept: Callable[[Layer], bool] | None = None,
    ) -> None:
        self.dtype = dtype
        self.wide = frozenset(wide)
        self.is_kept = is_kept

    def run(self, network: Network, log: Log) -> bool:
        """Insert casts at the borders; a second run finds nothing to do.

        PrecisionError names a weight that float16 cannot hold.
        """
        casts: dict[tuple[Tensor, DType], Tensor] = {}
        wide = [n for n, tensor in network.outputs.items() if tensor.dtype is DType.FLOAT32]
        lowered: set[Tensor] = set()
        kept = {tensor for tensor in network.inputs.values() if tensor.name in self.wide}
        changed = False
        for layer in network.layers:
            if is_cast(layer):
                continue
            is_tolerant = layer.kind.name in TOLERANT or layer.kind.computes_in(self.dtype)
            is_low = is_tolerant and _has_float_result(layer)
            if is_low and self._stays_wide(layer, kept):
                kept.update(layer.outputs)
                is_low = False
                if isinstance(layer.kind, Pointwise):
                    continue  # it reads either precision
            inputs = tuple(
                self._lowered(network, layer, index, casts, kept) if is_low
                else self._widened(network, layer, index, casts, lowered)
                for index in range(len(layer.inputs))
            )
            if inputs != layer.inputs:
                network.set_inputs(layer, inputs)
                changed = True
            if is_low:
                changed |= self._lower_results(network, layer, lowered)
        return self._restore_outputs(network, wide, casts, lowered) or changed

    def _stays_wide(self, layer: Layer, kept: set[Tensor]) -> bool:
        """Whether a layer that could be lowered computes in float32 and gives float32."""
        if self.is_kept is not None and self.is_kept(layer):
            return True
        if any(output.name in self.wide for output in layer.outputs):
            return True
        if not isinstance(layer.kind, Pointwise) and any(t.name in self.wide for t in layer.inputs):
            return True
        return self.dtype is DType.FLOAT16 and _outgrows_float16(layer, kept)

    def _lowered(
        self, network: Network, layer: Layer, index: int,
        casts: dict[tuple[Tensor, DType], Tensor], kept: set[Tensor],
    ) -> Tensor:
        """An operand of a layer that computes in low precision."""
        tensor = layer.inputs[index]
        if tensor.dtype is not DType.FLOAT32:
            return tensor
        is_epilogue = index >= len(layer.main_inputs)
        if tensor.is_constant and (is_epilogue or layer.kind.name in TAKES_WIDE):
            return tensor
        if tensor in kept and isinstance(layer.kind, Pointwise):
            return tensor
        return self._cast(network, tensor, self.dtype, casts, layer)

    def _widened(
        self, network: Network, layer: Layer, index: int,
        casts: dict[tuple[Tensor, DType], Tensor], lowered: set[Tensor],
    ) -> Tensor:
        """An operand of a layer that does not: what was float32 is so again."""
        tensor = layer.inputs[index]
        if tensor not in lowered:
            return tensor
        return self._cast(network, tensor, DType.FLOAT32, casts, layer)

    def _cast(
        self, network: Network, tensor: Tensor, dtype: DType,
        casts: dict[tuple[Tensor, DType], Tensor], before: Layer | None,
    ) -> Tensor:
        if (tensor, dtype) in casts:
            return casts[tensor, dtype]
        if tensor.data is not None:
            self._check_range(tensor, before)
            data = convert_float(tensor.data, tensor.dtype, dtype)
            result = network.add_constant(tensor.name, data, dtype)
        else:
            producer = tensor.producer
            kind = Pointwise(ex.cast(dtype, ex.Input(0)), dtype)
            result = network.add(
                kind, [tensor], before=before, name=f"{tensor.name}.{dtype.value}",
                origins=producer.origins if producer is not None else (),
            ).output
        casts[tensor, dtype] = result
        return result

    def _check_range(self, tensor: Tensor, layer: Layer | None) -> None:
        """PrecisionError for a weight that the low precision cannot hold."""
        if self.dtype is not DType.FLOAT16 or layer is None or tensor.data is None:
            return
        if layer.kind.name not in WEIGHTED or tensor not in layer.main_inputs:
            return
        finite = np.abs(tensor.data[np.isfinite(tensor.data)])
        largest = float(finite.max(initial=0.0))
        if largest > FLOAT16_MAX:
            raise PrecisionError(
                precision="fp16", constant=tensor.name, layer=layer.name, where=layer.where,
                reason=f"it holds {largest:.6g}, and float16 ends at {FLOAT16_MAX:g}",
                remedy='Use precision="bf16", which has the range of float32, or rescale it.',
            )

    def _lower_results(self, network: Network, layer: Layer, lowered: set[Tensor]) -> bool:
        changed = False
        if self.dtype is DType.FLOAT16 and DType.FLOAT32 in [o.dtype for o in layer.outputs]:
            _saturate(network, layer)
        for field in dataclasses.fields(layer.kind):
            if getattr(layer.kind, field.name) is DType.FLOAT32:
                kind = dataclasses.replace(layer.kind, **{field.name: self.dtype})
                network.set_kind(layer, kind)
                changed = True
        for output in layer.outputs:
            if output.dtype is DType.FLOAT32:
                network.set_type(output, TensorType(output.shape, self.dtype))
                lowered.add(output)
                changed = True
        return changed

    def _restore_outputs(
        self, network: Network, wide: list[str], casts: dict[tuple[Tensor, DType], Tensor],
        lowered: set[Tensor],
    ) -> bool:
        changed = False
        for name in wide:
            tensor = network.outputs[name]
            if tensor in lowered:
                network.outputs[name] = self._cast(network, tensor, DType.FLOAT32, casts, None)
                changed = True
        return changed


def _has_float_result(layer: Layer) -> bool:
    return all(output.dtype.is_float for output in layer.outputs) and any(
        tensor.dtype.is_float for tensor in layer.inputs
    )


def _outgrows_float16(layer: Layer, kept: set[Tensor]) -> bool:
    """Whether float16 may not hold what float32 does; ``kept`` are the tensors of which it is so.

    Of layers with a float32 result alone.
    """
    kind = layer.kind
    if any(output.dtype is not DType.FLOAT32 for output in layer.outputs):
        return False
    floats = [t for t in layer.inputs if t.dtype.is_float and not t.is_constant]
    is_of_kept = bool(floats) and all(tensor in kept for tensor in floats)
    if isinstance(kind, Pointwise):
        return is_of_kept or growth(kind.expression) > 1
    return isinstance(kind, Reduce) and (is_of_kept or kind.mode in ("sum", "prod"))


def _saturate(network: Network, layer: Layer) -> None:
    """Keep a result finite that has numbers in its expression which float16 does not hold."""
    expression = layer.kind.expression if isinstance(layer.kind, Pointwise) else layer.epilogue
    if expression is None:
        return
    sizes = [abs(node.value) for node in ex.walk(expression) if isinstance(node, ex.Constant)]
    if math.inf in sizes or not any(size > FLOAT16_MAX for size in sizes):
        return
    clamped = ex.apply("clamp", expression, -FLOAT16_MAX, FLOAT16_MAX)
    if isinstance(layer.kind, Pointwise):
        network.set_kind(layer, dataclasses.replace(layer.kind, expression=clamped))
    else:
        network.set_epilogue(layer, clamped, layer.epilogue_inputs)


def is_cast(layer: Layer) -> bool:
    """Whether it only converts between float32 and a 16-bit float."""
    return isinstance(layer.kind, Pointwise) and (
        layer.kind.expression.text in ("to_bfloat16(i0)", "to_float16(i0)", "to_float32(i0)")
    )


def convert_float(data: Array, source: DType, target: DType) -> Array:
    """A float constant as another float dtype, rounded to nearest even; bfloat16 as bits.

    Finite values beyond the range of float16 or float32 become its largest.
    """
    if source is target:
        return data
    wide = (data.astype(np.uint32) << 16).view(np.float32) if source is DType.BFLOAT16 else data
    if target is DType.FLOAT16 or source is DType.FLOAT64:
        largest = FLOAT16_MAX if target is DType.FLOAT16 else FLOAT32_MAX
        limited = np.clip(wide, -largest, largest)
        wide = np.where(np.isinf(wide), wide, limited)
    if target is not DType.BFLOAT16:
        return wide.astype(target.numpy)
    bits = np.ascontiguousarray(wide, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    is_nan = np.isnan(wide)
    return np.where(is_nan, np.uint32(0x7FC0), rounded).astype(np.uint16).reshape(data.shape)
