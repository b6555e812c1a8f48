"""What numpy tactics share: a layer is a function of arrays, or a view that is copied."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from torch2rt.backends.cpu.numpy_expression import (
    Evaluate,
    compile_expression,
    missing_op,
    store,
    widening,
)
from torch2rt.backends.cpu.steps import ArrayOperand, StepBuilder
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights
from torch2rt.network.dtype import Array, DType

ArrayFunction: TypeAlias = Callable[..., Any]
ArrayView: TypeAlias = Callable[[Array], Array]


class NumpyView(Tactic):
    """A layer whose output is a numpy view of its input, copied. Any dtype, row-major."""

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Every dtype; no epilogue."""
        return Refusal("an epilogue") if spec.epilogue is not None else None

    @abc.abstractmethod
    def view(self, spec: LayerSpec) -> ArrayView:
        """The view of the input that has the output's shape, or broadcasts to it."""

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One copy."""
        builder = StepBuilder(spec, weights)
        source = builder.array_input(0)
        view = self.view(spec)
        if isinstance(source, ArrayOperand):
            source = ArrayOperand(source.place, source.spec, view)
        else:
            source = view(source)
        builder.copy(builder.array_output(), source)
        return builder.finish()


class NumpyMove(Tactic):
    """A layer that moves elements without computing: storage bits are moved. Row-major."""

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Every dtype; no epilogue."""
        return Refusal("an epilogue") if spec.epilogue is not None else None

    @abc.abstractmethod
    def move(self, spec: LayerSpec) -> Callable[..., None]:
        """``move(output, *inputs)``."""

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One call."""
        builder = StepBuilder(spec, weights)
        inputs = [builder.array_input(index) for index in range(len(spec.inputs))]
        builder.call(self.move(spec), builder.array_output(), *inputs)
        return builder.finish()


class NumpyFunction(Tactic):
    """A layer that numpy computes, low precision in float32, then the epilogue. Row-major."""

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Dtypes that numpy has, and an epilogue of ops that it has."""
        dtypes = {tensor.dtype for tensor in (*spec.inputs, *spec.outputs)}
        if DType.FLOAT8_E4M3 in dtypes:
            return Refusal("numpy has no float8")
        if spec.epilogue is not None:
            missing = missing_op(spec.epilogue, DType.FLOAT64 in dtypes)
            if missing is not None:
                return Refusal(f"numpy has no {missing}")
        return self.refusal(spec)

    def refusal(self, spec: LayerSpec) -> Refusal | None:
        """What else the tactic refuses."""
        return None

    @abc.abstractmethod
    def function(self, spec: LayerSpec) -> ArrayFunction:
        """The kind's function: main inputs to the output, or to a tuple of outputs."""

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One call."""
        builder = StepBuilder(spec, weights)
        outputs = [builder.array_output(index) for index in range(len(spec.outputs))]
        inputs = [builder.array_input(index) for index in range(len(spec.inputs))]
        epilogue = compile_expression(spec.epilogue) if spec.epilogue is not None else None
        run = partial(
            _run, self.function(spec), epilogue, spec.main_count,
            [widening(tensor.dtype) for tensor in spec.inputs],
            [tensor.dtype for tensor in spec.outputs],
        )
        builder.call(run, *outputs, *inputs)
        return builder.finish()


def _run(
    function: ArrayFunction, epilogue: Evaluate | None, main_count: int,
    widen: Sequence[ArrayView | None], dtypes: Sequence[DType], *arrays: Array,
) -> None:
    outputs, inputs = arrays[: len(dtypes)], arrays[len(dtypes) :]
    values = [
        convert(array) if convert is not None else array
        for convert, array in zip(widen, inputs, strict=True)
    ]
    result = function(*values[:main_count])
    results = list(result) if isinstance(result, tuple) else [result]
    if epilogue is not None:
        results[0] = epilogue([results[0], *values[main_count:]])
    for out, value, dtype in zip(outputs, results, dtypes, strict=True):
        store(out, value, dtype)
