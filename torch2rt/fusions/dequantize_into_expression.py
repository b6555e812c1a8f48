"""Expressions read the few bits of a tensor and dequantize them by themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch2rt import expression as ex
from torch2rt.fusions.base import Fusion
from torch2rt.fusions.operands import MAX_INPUTS, MAX_SIZE
from torch2rt.fusions.quantized import dequantized, encoding_of
from torch2rt.fusions.rewrite import merged_origins, remove_if_unused, replace_layer
from torch2rt.layers.dequantize import Dequantize
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject


@dataclass(frozen=True)
class _Match:
    layer: Layer
    index: int
    producer: Layer


class DequantizeIntoExpression(Fusion[_Match]):
    """A pointwise layer or an epilogue takes over the dequantize layer of an operand.

    Before: %r = dequantize(%p, @s)
            %y = convolution(%x, @w, %r) epilogue relu(add(i0,i1))
    After:  %y = convolution(%x, @w, %p, @s) epilogue relu(add(i0,mul(to_float32(i1),i2)))
    Fires on tensors with one constant scale, however many read them: four or two times fewer
    bytes are read, for one multiplication.
    Refuses scales per channel or computed ones, and expressions that would grow too large.
    """

    name: ClassVar[str] = "dequantize_into_expression"
    equation: ClassVar[str] = "f(dequantize(q)) = (f o dequantize)(q)"
    priority: ClassVar[int] = 8

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """The first dequantized operand of an expression."""
        for index in range(_first_operand(layer), len(layer.inputs)):
            producer = dequantized(layer.inputs[index])
            if producer is not None:
                return _Match(layer, index, producer)
        return None

    def check(self, network: Network, match: _Match) -> Reject | None:
        """One constant scale, and room for it."""
        encoding = encoding_of(match.producer)
        if encoding is None or not encoding.is_per_tensor:
            return Reject("the scale is not one constant", match.layer.name)
        growth = len(match.producer.inputs) - 1
        operands = len(match.layer.inputs) - _first_operand(match.layer) + growth
        if operands > MAX_INPUTS or ex.size(_expression(match.layer)) + 4 > MAX_SIZE:
            return Reject("the expression would grow too large", match.layer.name)
        return None

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """The stored tensor in the operand's place, its scale and zero point at the end."""
        layer, producer = match.layer, match.producer
        first = _first_operand(layer)
        base = 0 if isinstance(layer.kind, Pointwise) else 1
        encoding = encoding_of(producer)
        assert encoding is not None
        extra = producer.inputs[1 : 2 if encoding.is_symmetric else 3]
        operands: list[Tensor] = [*layer.inputs[first:], *extra]
        operands[match.index - first] = producer.inputs[0]
        numbers = range(base + len(layer.inputs) - first, base + len(operands))
        value = _value_of(producer, base + match.index - first, list(numbers))
        expression = ex.substitute_inputs(
            _expression(layer), {base + match.index - first: value}
        )
        if not isinstance(layer.kind, Pointwise):
            network.set_epilogue(layer, expression, tuple(operands))
            network.set_origins(layer, merged_origins(producer, layer))
            remove_if_unused(network, producer)
            return layer
        kind = Pointwise(expression, layer.kind.dtype)
        return replace_layer(network, layer, kind, operands, absorbed=(producer,))


def _first_operand(layer: Layer) -> int:
    """Where the operands of a layer's expression begin among its inputs."""
    return 0 if isinstance(layer.kind, Pointwise) else len(layer.main_inputs)


def _expression(layer: Layer) -> ex.Expression:
    if isinstance(layer.kind, Pointwise):
        return layer.kind.expression
    return layer.epilogue if layer.epilogue is not None else ex.Input(0)


def _value_of(producer: Layer, stored: int, numbers: list[int]) -> ex.Expression:
    """The dequantized value of input ``stored``; ``numbers`` are its scale and zero point."""
    assert isinstance(producer.kind, Dequantize)
    expression = producer.kind.expression(len(numbers) > 1)
    inputs = [stored, *numbers]
    return ex.substitute_inputs(expression, {i: ex.Input(n) for i, n in enumerate(inputs)})
