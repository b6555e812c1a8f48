"""Reductions over axes by numpy: any dtype, row-major."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np

from torch2rt.backends.cpu.numpy_expression import (
    Evaluate,
    compile_expression,
    missing_op,
    store,
    widening,
)
from torch2rt.backends.cpu.steps import StepBuilder
from torch2rt.backends.cpu.tactics.reduce_onednn import reduce_kind
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights
from torch2rt.network.dtype import Array, DType

# The dtype in which sums are kept, as torch does it: that of the result.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sum": np.add.reduce, "mean": np.mean, "max": np.maximum.reduce, "min": np.minimum.reduce,
    "prod": np.multiply.reduce, "any": np.any, "all": np.all,
}
_WITH_DTYPE = ("sum", "mean", "prod")


class ReduceNumpy(Tactic):
    """One numpy reduction, then the epilogue."""

    name: ClassVar[str] = "reduce.numpy.direct"
    kinds: ClassVar[tuple[str, ...]] = ("reduce",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Dtypes that numpy has; nothing empty."""
        dtypes = {tensor.dtype for tensor in (*spec.inputs, *spec.outputs)}
        if DType.FLOAT8_E4M3 in dtypes:
            return Refusal("numpy has no float8")
        if spec.inputs[0].element_count == 0:
            return Refusal("a reduction over nothing")
        if spec.epilogue is None:
            return None
        missing = missing_op(spec.epilogue, DType.FLOAT64 in dtypes)
        return Refusal(f"numpy has no {missing}") if missing is not None else None

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Fix function, axes and dtypes."""
        builder = StepBuilder(spec, weights)
        kind = reduce_kind(spec)
        options: dict[str, Any] = {"axis": kind.axes, "keepdims": kind.keepdim}
        if kind.mode in _WITH_DTYPE:
            dtype = spec.inputs[0].dtype
            options["dtype"] = np.dtype(np.float32) if dtype.is_low_precision else dtype.numpy
        epilogue = compile_expression(spec.epilogue) if spec.epilogue is not None else None
        run = partial(
            _run, partial(_FUNCTIONS[kind.mode], **options), epilogue,
            [widening(tensor.dtype) for tensor in spec.inputs], spec.outputs[0].dtype,
        )
        operands = [builder.array_input(index) for index in range(len(spec.inputs))]
        builder.call(run, builder.array_output(), *operands)
        return builder.finish()


def _run(
    function: Callable[[Array], Any], epilogue: Evaluate | None, widen: list[Any], dtype: DType,
    out: Array, *operands: Array,
) -> None:
    values = [
        convert(operand) if convert is not None else operand
        for convert, operand in zip(widen, operands, strict=True)
    ]
    result = function(values[0])
    if epilogue is not None:
        result = epilogue([result, *values[1:]])
    store(out, result, dtype)
