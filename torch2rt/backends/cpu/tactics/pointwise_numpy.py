"""Pointwise layers by numpy: any dtype, row-major."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from torch2rt.backends.cpu.numpy_expression import (
    Evaluate,
    compile_expression,
    missing_op,
    store,
    widening,
)
from torch2rt.backends.cpu.steps import StepBuilder
from torch2rt.backends.cpu.tactics.pointwise_onednn import expression_of
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights
from torch2rt.network.dtype import DType


class PointwiseNumpy(Tactic):
    """One numpy call per op of the expression."""

    name: ClassVar[str] = "pointwise.numpy.ops"
    kinds: ClassVar[tuple[str, ...]] = ("pointwise",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Dtypes and ops that numpy has."""
        dtypes = {tensor.dtype for tensor in (*spec.inputs, *spec.outputs)}
        if DType.FLOAT8_E4M3 in dtypes:
            return Refusal("numpy has no float8")
        missing = missing_op(expression_of(spec), DType.FLOAT64 in dtypes)
        return Refusal(f"numpy has no {missing}") if missing is not None else None

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Compile the expression to a list of numpy calls."""
        builder = StepBuilder(spec, weights)
        operands = [builder.array_input(index) for index in range(len(spec.inputs))]
        evaluate = compile_expression(expression_of(spec))
        widen = [
            (index, convert) for index, tensor in enumerate(spec.inputs)
            if (convert := widening(tensor.dtype)) is not None
        ]
        dtype = spec.outputs[0].dtype
        run = partial(_run, evaluate, tuple(widen), dtype)
        builder.call(run, builder.array_output(), *operands)
        return builder.finish()


def _run(
    evaluate: Evaluate, widen: tuple[tuple[int, Any], ...], dtype: DType, out: Any, *operands: Any
) -> None:
    values: Any = operands
    if widen:
        values = list(operands)
        for index, convert in widen:
            values[index] = convert(values[index])
    store(out, evaluate(values), dtype)
