"""Epilogues: a pointwise layer becomes part of the layer whose result it changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from torch2rt import expression as ex
from torch2rt.fusions.base import Fusion
from torch2rt.fusions.contraction import Contraction
from torch2rt.fusions.operands import MAX_INPUTS, MAX_SIZE, Bound, joined
from torch2rt.fusions.rewrite import replace_layer
from torch2rt.layers.attention import Attention
from torch2rt.layers.layer_norm import LayerNorm
from torch2rt.layers.matmul import Matmul
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.dtype import DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject
from torch2rt.passes.expressions.dtypes import cast_between, natural_dtype, operand

_STORED = (DType.INT8, DType.UINT8)
_NARROWED = (DType.FLOAT32, DType.FLOAT16)
# What norms round their results to, on a backend whose kernels do.
_ROUNDED = (DType.INT8, DType.FLOAT8_E4M3)


@dataclass(frozen=True)
class PointwiseAfter:
    """A pointwise layer and the layer that writes one of its operands."""

    pointwise: Layer
    producer: Layer
    reason: str | None


class FuseEpilogue(Fusion[PointwiseAfter]):
    """Bias, residual, activation, scale and clamp become the epilogue of what they follow.

    Before: %a = convolution(%x, @w)
            %y = pointwise(%a, @bias, %residual) relu(add(add(i0,i1),i2))
    After:  %y = convolution(%x, @w, @bias, %residual) epilogue relu(add(add(i0,i1),i2))
    Fires when the producer's kind takes an epilogue, the pointwise layer alone reads its result,
    and both results have one shape. Of two producers the later contraction takes the epilogue;
    it moves to the place of the pointwise layer, where all operands exist.
    Refuses when the producer's result has other readers or is a network output, when the shapes
    differ, when the result is neither float nor 8 bits, when float64 is made of less, or when the
    epilogue would grow too large.
    float8 is written by matmuls and by attention over float8, and on a GPU by layer norms; the
    last two take nothing but such a rounding. On a CPU a float32 result is not made float16 in an
    epilogue: no library writes it.
    """

    name: ClassVar[str] = "fuse_epilogue"
    equation: ClassVar[str] = "g(f(x)) = (g o f)(x)"
    priority: ClassVar[int] = 40

    def __init__(self, *, norms_round: bool = False, narrows_to_float16: bool = True) -> None:
        self._norms_round = norms_round
        self._narrows_to_float16 = narrows_to_float16

    @classmethod
    def for_target(cls, target: str) -> Self:
        """On a GPU, layer norms write 8 bits, and whatever is float32 may be written as float16."""
        return cls(norms_round=target == "cuda", narrows_to_float16=target == "cuda")

    def match(self, network: Network, layer: Layer) -> PointwiseAfter | None:
        """A pointwise layer after a layer that takes an epilogue; the best producer if several."""
        if not isinstance(layer.kind, Pointwise):
            return None
        producers = [
            tensor.producer for tensor in dict.fromkeys(layer.inputs)
            if tensor.producer is not None and self._takes(tensor.producer, layer)
        ]
        found = [PointwiseAfter(layer, p, _refusal(network, layer, p)) for p in producers]
        possible = [match for match in found if match.reason is None]
        if len(possible) > 1:
            return max(possible, key=lambda match: _preference(network, match.producer))
        return possible[0] if possible else found[0] if found else None

    def _takes(self, producer: Layer, layer: Layer) -> bool:
        """Whether a layer's kind takes the pointwise layer as its epilogue."""
        if producer.kind.takes_epilogue:
            return True
        is_rounding = layer.output.dtype in _ROUNDED and len(layer.inputs) == 1
        if isinstance(producer.kind, Attention):
            dtypes = {producer.inputs[0].dtype, layer.output.dtype}
            return is_rounding and dtypes == {DType.FLOAT8_E4M3}
        return self._norms_round and is_rounding and isinstance(producer.kind, LayerNorm)

    def check(self, network: Network, match: PointwiseAfter) -> Reject | None:
        """The reason found while matching, or the size of the result."""
        if match.reason is not None:
            return Reject(match.reason, match.producer.name)
        before, after = match.producer.output.dtype, match.pointwise.output.dtype
        if (before, after) == _NARROWED and not self._narrows_to_float16:
            return Reject("float16, which kernels of CPUs do not write", match.producer.name)
        fused = _fused(match)
        if ex.size(fused.expression) > MAX_SIZE:
            return Reject(f"the epilogue would have {ex.size(fused.expression)} terms",
                          match.producer.name)
        if len(fused.operands) - 1 > MAX_INPUTS:
            return Reject(f"the epilogue would read {len(fused.operands) - 1} tensors",
                          match.producer.name)
        return None

    def rewrite(self, network: Network, match: PointwiseAfter) -> Layer:
        """The producer, in the place of the pointwise layer."""
        fused = _fused(match)
        producer = match.producer
        operands = [item for item in fused.operands[1:] if isinstance(item, Tensor)]
        return replace_layer(
            network, match.pointwise, producer.kind, (*producer.main_inputs, *operands),
            epilogue=None if fused.expression == ex.Input(0) else fused.expression,
            absorbed=(producer,), named_after=producer,
        )


def _refusal(network: Network, layer: Layer, producer: Layer) -> str | None:
    if len(producer.outputs) != 1:
        return f"{producer.name} has several results"
    result = producer.output
    if network.is_output(result):
        return f"{result.name} is a network output"
    if len(result.users) != 1:
        return f"{result.name} has {len(result.users)} readers"
    if result.shape != layer.output.shape:
        return f"{result.name} is broadcast from {result.type} to {layer.output.type}"
    if not result.dtype.is_float:
        return f"{result.name} is {result.dtype.value}, not a float"
    if not layer.output.dtype.is_float and layer.output.dtype not in _STORED:
        return f"{layer.output.name} is {layer.output.dtype.value}"
    if layer.output.dtype is DType.FLOAT64 and result.dtype is not DType.FLOAT64:
        return f"{layer.output.name} is float64, which no kernel makes of {result.dtype.value}"
    if layer.output.dtype is DType.FLOAT8_E4M3 and not isinstance(
        producer.kind, Attention | LayerNorm | Matmul
    ):
        return f"{layer.output.name} is {layer.output.dtype.value}, which products alone write"
    return None


def _preference(network: Network, producer: Layer) -> tuple[bool, int]:
    """Contractions first, then what comes later."""
    return isinstance(producer.kind, Contraction), network.position(producer)


def _fused(match: PointwiseAfter) -> Bound:
    """The epilogue of both layers together; i0 is the producer's own result."""
    layer, producer = match.pointwise, match.producer
    assert isinstance(layer.kind, Pointwise)
    result = producer.output
    operands: list[Tensor] = [result, *producer.epilogue_inputs]
    inner = producer.epilogue if producer.epilogue is not None else ex.Input(0)
    natural = natural_dtype(inner, tuple(operand(tensor) for tensor in operands))
    replacements: dict[int, ex.Expression] = {}
    for index, tensor in enumerate(layer.inputs):
        if tensor is result:
            replacements[index] = cast_between(inner, natural, result.dtype)
        else:
            replacements[index] = ex.Input(len(operands))
            operands.append(tensor)
    return joined(ex.substitute_inputs(layer.kind.expression, replacements), operands, fixed=1)
