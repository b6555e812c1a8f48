"""Where the largest or smallest element stands, by our kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.cpp.walks import (
    accumulator_type,
    epilogue_refusal,
    image_or_plain_choices,
    kept_walk,
)
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.cuda.launch import I64, KernelPrepared, Launch, Out
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.kernels.cuda.argreduce import ArgReduceProblem, argreduce_source
from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.kernels.cuda.strided import Axis, count, index_type
from torch2rt.layers.argreduce import ArgReduce

_THREADS, _BLOCK = 128, 1024
_MAX_LENGTH = 2**31 - 2**16


class WalkArgReduce(Tactic):
    """Lanes along the axis, or one per output where there are many."""

    name: ClassVar[str] = "argreduce.cuda.walk"
    kinds: ClassVar[tuple[str, ...]] = ("argreduce",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Every dtype but float8."""
        if spec.inputs[0].shape[_kind(spec).axis] > _MAX_LENGTH:
            return Refusal("indices beyond 32 bits")
        return Refusal("an epilogue") if spec.epilogue is not None else epilogue_refusal(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Images of four or five axes in both layouts."""
        return image_or_plain_choices(spec)

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Always: strides are constants of the source."""
        return True

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One launch."""
        problem = argreduce_problem(spec, current_device().multiprocessors)
        kernel = cpp_kernel(weights, "argreduce", argreduce_source(problem))
        outputs = count(problem.outputs)
        blocks = -(-outputs // (problem.threads // problem.lanes))
        return KernelPrepared([Launch(
            kernel, (blocks, 1, 1), (problem.threads, 1, 1),
            [operand(spec, weights, 0), Out(0), I64(outputs)], overlaps=True,
        )])


def argreduce_problem(spec: LayerSpec, multiprocessors: int) -> ArgReduceProblem:
    """Lanes by the length of the axis and the number of outputs."""
    kind, x = _kind(spec), spec.inputs[0]
    kept = kept_walk(spec, (kind.axis,), kind.keepdim)
    length, stride = x.shape[kind.axis], x.strides[kind.axis]
    outputs = count(kept)
    lanes, threads = 1, _THREADS
    while lanes < 32 and lanes * 4 <= length:
        lanes *= 2
    if stride > 1 and outputs >= 256 * multiprocessors:
        lanes = 1
    elif length >= 2 * _BLOCK and outputs < 16 * multiprocessors:
        lanes = threads = _BLOCK
    return ArgReduceProblem(
        kind.mode, c_type(x.dtype), accumulator_type(x.dtype), tuple(kept), length, stride, lanes,
        threads, index_type(kept, [Axis(length, (stride,))]),
    )


def _kind(spec: LayerSpec) -> ArgReduce:
    if not isinstance(spec.kind, ArgReduce):
        raise Unprepared(f"{spec.kind.name} is not an argreduce")
    return spec.kind
