"""Which epilogues cuBLASLt computes: gelu_tanh(alpha * product + residual + bias), or parts of it.

Its ReLU is left out: the library does not say whether it keeps a NaN, as torch's relu does. (13.1
does, on sm_90.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch2rt import expression as ex
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Refusal


@dataclass(frozen=True, slots=True)
class Epilogue:
    """The parts of an epilogue. ``bias`` and ``residual`` are indices of inputs, or None."""

    alpha: float = 1.0
    bias: int | None = None
    residual: int | None = None
    has_gelu: bool = False


def find_epilogue(spec: LayerSpec) -> Epilogue | Refusal:
    """The epilogue of a matmul layer as the library computes it."""
    expression = spec.epilogue
    if expression is None:
        return Epilogue()
    has_gelu = isinstance(expression, ex.Apply) and expression.op == "gelu_tanh"
    if has_gelu:
        (expression,) = expression.arguments
    alphas: list[float] = []
    others: list[int] = []
    for term in _terms(expression):
        scale = _scale_of_product(term)
        if scale is not None:
            alphas.append(scale)
        elif isinstance(term, ex.Input):
            others.append(term.index)
        else:
            return Refusal(f"cuBLASLt has no epilogue {term.text}")
    if len(alphas) != 1:
        return Refusal("an epilogue that uses the product otherwise than once")
    return _with_operands(spec, alphas[0], others, has_gelu)


def _with_operands(
    spec: LayerSpec, alpha: float, others: list[int], has_gelu: bool
) -> Epilogue | Refusal:
    """Tell the bias from the residual."""
    output = spec.outputs[0]
    bias = residual = None
    for other in others:
        index = spec.main_count + other - 1
        operand = spec.inputs[index]
        is_row = operand.element_count == output.shape[-1] and operand.shape[-1:] == (
            output.shape[-1],
        )
        if is_row and spec.constants[index] is not None and bias is None:
            bias = index
        elif operand.shape == output.shape and residual is None:
            if operand.dtype is not output.dtype or spec.constants[index] is not None:
                return Refusal(f"a residual {operand} for {output}")
            residual = index
        else:
            return Refusal(f"an epilogue input {operand} for {output}")
    return Epilogue(alpha, bias, residual, has_gelu)


def _terms(expression: ex.Expression) -> Iterator[ex.Expression]:
    """The terms of a sum."""
    if isinstance(expression, ex.Apply) and expression.op == "add":
        for argument in expression.arguments:
            yield from _terms(argument)
    else:
        yield expression


def _scale_of_product(term: ex.Expression) -> float | None:
    """What the product is multiplied with in this term, None where it is another term."""
    match term:
        case ex.Input(index=0):
            return 1.0
        case ex.Apply(op="mul", arguments=(ex.Input(index=0), ex.Constant(value=value))):
            return float(value)
        case ex.Apply(op="mul", arguments=(ex.Constant(value=value), ex.Input(index=0))):
            return float(value)
        case ex.Apply(op="div", arguments=(ex.Input(index=0), ex.Constant(value=value))) if value:
            return 1.0 / float(value)
    return None
