"""Reductions over any axes by our kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.cpp.reductions import reduce_problem
from torch2rt.backends.cuda.cpp.walks import (
    epilogue_refusal,
    extra_arguments,
    image_or_plain_choices,
    itemsize_bytes,
)
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.cuda.launch import I32, I64, KernelPrepared, Launch, Out, Work
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.kernels.cuda.reduce import FINISH_THREADS, finish_source, reduce_source
from torch2rt.layers.reduce import Reduce


class WalkReduce(Tactic):
    """Rows or columns of the merged axes; few outputs in two kernels."""

    name: ClassVar[str] = "reduce.cuda.walk"
    kinds: ClassVar[tuple[str, ...]] = ("reduce",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Every dtype but float8; a mean of floats."""
        if _kind(spec).mode == "mean" and not spec.inputs[0].dtype.is_float:
            return Refusal("a mean of integers")
        return epilogue_refusal(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Images of four or five axes in both layouts."""
        return image_or_plain_choices(spec)

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Always: strides are constants of the source."""
        return True

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One launch, or one that leaves partial results and one that combines them."""
        kind = _kind(spec)
        problem = reduce_problem(
            spec, kind.mode, kind.axes, kind.keepdim, current_device().multiprocessors
        )
        extras = extra_arguments(spec, weights)
        kernel = cpp_kernel(weights, "reduce", reduce_source(problem))
        outputs = I64(problem.outputs)
        x = operand(spec, weights, 0)
        if problem.splits == 1:
            arguments = [x, Out(0), *extras, outputs]
            return KernelPrepared([
                Launch(kernel, problem.blocks, problem.threads, arguments, overlaps=True)
            ])
        finish = cpp_kernel(weights, "reduce_finish", finish_source(problem))
        blocks = -(-problem.outputs // (FINISH_THREADS // 32))
        return KernelPrepared(
            [
                Launch(kernel, problem.blocks, problem.threads, [x, Work(), outputs],
                       overlaps=True),
                Launch(finish, (blocks, 1, 1), (FINISH_THREADS, 1, 1),
                       [Work(), Out(0), *extras, outputs, I32(problem.splits)], overlaps=True),
            ],
            workspace_bytes=problem.splits * problem.outputs * itemsize_bytes(problem.accumulator),
        )


def _kind(spec: LayerSpec) -> Reduce:
    if not isinstance(spec.kind, Reduce):
        raise Unprepared(f"{spec.kind.name} is not a reduction")
    return spec.kind
