"""Finds the first step of an engine whose result is off, without un-fusing anything.

Every step is run on the engine's own inputs to it, and its result compared with the layer's
reference on the same inputs, so an error is charged to the step that makes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from torch2rt.backends.buffer import Buffer
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.engine.context import Context, Step
from torch2rt.engine.engine import Engine, Runnable
from torch2rt.inspect.steps import step_title
from torch2rt.inspect.tolerance import layer_error, layer_tolerance
from torch2rt.network.dtype import Array
from torch2rt.network.layer import run_reference, widen
from torch2rt.network.tensor import TensorType
from torch2rt.torch_values import constant_to_torch


@dataclass(frozen=True, slots=True)
class StepError:
    """How far one step is from its reference.

    ``overflows``: a result is infinite or NaN that is a number in float64.
    """

    layer: str
    kind: str
    tactic: str
    where: str
    error: float
    allowed: float
    overflows: bool = False

    @property
    def is_off(self) -> bool:
        """Whether it is further than rounding explains."""
        return self.error > self.allowed


def step_errors(engine: Engine, inputs: Sequence[torch.Tensor]) -> list[StepError]:
    """The error of every step on these inputs, in order of execution."""
    runnable = engine.runnable(tuple(tuple(tensor.shape) for tensor in inputs))
    context = Context(runnable.executable)
    kept = bind_context(context, runnable, inputs, torch.device(engine.backend.device))
    errors = []
    steps = run_steps(engine, context, runnable)
    for position, (step, operands, results) in enumerate(steps):
        title = step_title(runnable.executable.plan, position)
        where = step.spec.where if step.plan_step.layer else title
        errors.append(_compare(step, where, operands, results))
    del kept
    return errors


def run_steps(
    engine: Engine, context: Context, runnable: Runnable
) -> Iterator[tuple[Step, list[torch.Tensor], list[torch.Tensor]]]:
    """Run a bound context step by step: each with what it read and what it gave."""
    steps = zip(runnable.executable.steps, context.calls_per_step, strict=True)
    for step, calls in steps:
        buffers_in = [context.buffer(i) for i in step.plan_step.inputs]
        buffers_out = [context.buffer(i) for i in step.plan_step.outputs]
        operands = [_read(engine, buffer) for buffer in buffers_in]
        engine.backend.runner(calls)()
        yield step, operands, [_read(engine, buffer) for buffer in buffers_out]


def first_off(engine: Engine, inputs: Sequence[torch.Tensor]) -> StepError | None:
    """The first step that is off, or the worst one if each is within its tolerance."""
    errors = step_errors(engine, inputs)
    off = next((error for error in errors if error.is_off), None)
    return off or max(errors, key=lambda error: error.error, default=None)


def first_overflow(engine: Engine, inputs: Sequence[torch.Tensor]) -> StepError | None:
    """The first step whose result does not fit its dtype."""
    return next((error for error in step_errors(engine, inputs) if error.overflows), None)


def bind_context(
    context: Context, runnable: Runnable, inputs: Sequence[torch.Tensor], device: torch.device
) -> list[torch.Tensor]:
    """Point the context at inputs and fresh outputs, which the caller keeps alive."""
    held = [tensor.detach().to(device).contiguous() for tensor in inputs]
    for move, tensor in zip(context.movers("input", runnable.input_names), held, strict=True):
        move(tensor.data_ptr())
    for name, spec in zip(runnable.output_names, runnable.output_specs, strict=True):
        result = torch.empty(max(spec.size_bytes, 1), dtype=torch.uint8, device=device)
        context.mover("output", name)(result.data_ptr())
        held.append(result)
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # steps run on another stream than the copies
    return held


def _read(engine: Engine, buffer: Buffer) -> torch.Tensor:
    """A copy of a buffer's value, row-major."""
    if buffer.constant is not None:
        return constant_to_torch(engine.weights.array(buffer.constant), buffer.spec.dtype)
    raw = engine.backend.download_bytes(buffer.address, buffer.spec.extent_bytes)
    return constant_to_torch(to_plain(raw, buffer.spec), buffer.spec.dtype)


def to_plain(raw: Array, spec: TensorSpec) -> Array:
    """The value in memory of any layout as a row-major array; bits where numpy has no dtype."""
    stored = raw.view(spec.dtype.numpy)
    block = spec.layout.block
    if block == 1:
        size = spec.dtype.itemsize_bytes
        steps = tuple(step * size for step in spec.strides)
        return np.lib.stride_tricks.as_strided(stored, spec.shape, steps).copy()
    n, c, *spatial = spec.shape
    blocks = -(-c // block)
    stored = stored.reshape(n, blocks, *spatial, block)
    whole = np.moveaxis(stored, -1, 2).reshape(n, blocks * block, *spatial)
    return np.ascontiguousarray(whole[:, :c])


def _compare(
    step: Step, where: str, operands: Sequence[torch.Tensor], results: Sequence[torch.Tensor]
) -> StepError:
    spec = step.spec
    types = [TensorType(output.shape, output.dtype) for output in spec.outputs]
    with torch.no_grad():
        wanted = run_reference(spec.kind, spec.epilogue, operands, types)
    errors = [layer_error(got, want) for got, want in zip(results, wanted, strict=True)]
    allowed = max(layer_tolerance(spec.kind, output.dtype) for output in spec.outputs)
    return StepError(
        spec.name, spec.kind.name, step.plan_step.tactic, where, max(errors), allowed,
        _overflows(spec, operands, results),
    )


def _overflows(
    spec: LayerSpec, operands: Sequence[torch.Tensor], results: Sequence[torch.Tensor]
) -> bool:
    """Whether a result is not finite that float64 computes from the same operands."""
    if all(bool(torch.isfinite(widen(result)).all()) for result in results):
        return False
    wide = [x.double() if x.is_floating_point() else x for x in operands]
    types = [TensorType(output.shape, output.dtype) for output in spec.outputs]
    with torch.no_grad():
        exact = run_reference(spec.kind, spec.epilogue, wide, types)
    return any(
        bool((torch.isfinite(widen(want)) & ~torch.isfinite(widen(got))).any())
        for got, want in zip(results, exact, strict=True)
    )
