"""Plugins by the user's Python: a function of numpy arrays, or `Plugin.enqueue`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from torch2rt.backends.cpu.numpy_expression import (
    Evaluate,
    compile_expression,
    missing_op,
    store,
)
from torch2rt.backends.cpu.steps import ArrayOperand, NumpyStep, StepBuilder
from torch2rt.backends.cpu.torch_operators import strided_operand
from torch2rt.backends.plugins import (
    PLUGIN_KINDS,
    Enqueue,
    attributes_of,
    dtype_refusal,
    enqueue_tactics,
    plugin_of,
)
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.extension.full import Plugin
from torch2rt.extension.user_code import call_user
from torch2rt.network.dtype import Array, DType


class PluginArrays(Tactic):
    """``cpu(inputs, outputs, attributes)`` on the buffers themselves, row-major."""

    name: ClassVar[str] = "plugin.python.arrays"
    kinds: ClassVar[tuple[str, ...]] = PLUGIN_KINDS

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Plugins that declare such a function, in dtypes that they name."""
        if "cpu" not in plugin_of(spec).host:
            return Refusal("the plugin has no function for the CPU")
        return dtype_refusal(spec) or _epilogue_refusal(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One call. PluginMissingError where the plugin is not registered."""
        kind = plugin_of(spec)
        definition = kind.definition()
        function = definition.implementations.cpu
        if function is None:
            raise Unprepared(f"{kind.plugin} is registered without its function for the CPU")
        attributes = attributes_of(spec)
        builder = StepBuilder(spec, weights)
        outputs = [builder.array_output(index) for index in range(len(spec.outputs))]
        inputs = [builder.array_input(index) for index in range(len(spec.inputs))]
        run = partial(_run, kind.plugin, function, attributes, len(outputs))
        if spec.epilogue is not None:
            result = TensorSpec(spec.outputs[0].shape, DType.FLOAT32)
            place = builder.take_workspace(result.size_bytes)
            outputs.append(ArrayOperand(place, result))
            epilogue = compile_expression(spec.epilogue)
            run = partial(_run_all, run, epilogue, spec.main_count, spec.outputs[0].dtype)
        # Whether numpy warns is the user's affair, and silencing it takes longer than the call.
        builder.steps.append(NumpyStep(run, (*outputs, *inputs), may_overflow=False))
        return builder.finish()


def _run(
    name: str, function: Callable[..., Any], attributes: Mapping[str, Any], count: int,
    *arrays: Array,
) -> None:
    call_user(name, "its cpu function", function, arrays[count:], arrays[:count], attributes)


def _run_all(
    run: Callable[..., None], epilogue: Evaluate, main_count: int, dtype: DType, output: Array,
    result: Array, *inputs: Array,
) -> None:
    """The function, then the epilogue of its result."""
    run(result, *inputs[:main_count])
    with np.errstate(all="ignore"):
        store(output, epilogue([result, *inputs[main_count:]]), dtype)


def _epilogue_refusal(spec: LayerSpec) -> Refusal | None:
    """A refusal of epilogues that numpy does not compute in float32."""
    if spec.epilogue is None:
        return None
    floats = {tensor.dtype for tensor in (*spec.inputs, *spec.outputs) if tensor.dtype.is_float}
    if floats - {DType.FLOAT32}:
        return Refusal("an epilogue that is not float32 throughout")
    missing = missing_op(spec.epilogue, is_double=False)
    return Refusal(f"numpy has no {missing}") if missing is not None else None


class _Enqueue(Enqueue):
    device: ClassVar[str] = "cpu"

    def bound_to(
        self, plugin: Plugin, spec: LayerSpec, weights: Weights, workspace_bytes: int
    ) -> Prepared:
        """One call on arrays."""
        builder = StepBuilder(spec, weights)
        scratch = TensorSpec((workspace_bytes,), DType.UINT8)
        place = builder.take_workspace(workspace_bytes)
        outputs = [
            strided_operand("output", index, operand)
            for index, operand in enumerate(spec.outputs)
        ]
        inputs = [_input(builder, index) for index in range(len(spec.inputs))]
        run = partial(_enqueue, plugin, len(outputs))
        operands = (ArrayOperand(place, scratch), *outputs, *inputs)
        builder.steps.append(NumpyStep(run, operands, may_overflow=False))
        return builder.finish()


def _input(builder: StepBuilder, index: int) -> ArrayOperand | Array:
    if builder.spec.constants[index] is not None:
        return builder.array_input(index)
    return strided_operand("input", index, builder.spec.inputs[index])


def _enqueue(plugin: Plugin, count: int, workspace: Array, *arrays: Array) -> None:
    call_user(
        plugin.name, "enqueue", plugin.enqueue, arrays[count:], arrays[:count], workspace, None
    )


globals().update(enqueue_tactics(_Enqueue))
