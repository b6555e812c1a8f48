"""Running sums, products and log-sum-exps by our kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.cpp.walks import (
    accumulator_type,
    epilogue_refusal,
    image_or_plain_choices,
    walk,
)
from torch2rt.backends.cuda.launch import I64, KernelPrepared, Launch, Out
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.kernels.cuda.cumulative import THREADS, CumulativeProblem, cumulative_source
from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.kernels.cuda.strided import Axis, count, index_type, merge_axes
from torch2rt.layers.cumulative import Cumulative

# Rows up to this length, or this many rows side by side, have one thread each.
_SHORT, _MANY = 16, 2048


class WalkCumulative(Tactic):
    """A block along a row, or a thread where rows are many or short."""

    name: ClassVar[str] = "cumulative.cuda.walk"
    kinds: ClassVar[tuple[str, ...]] = ("cumulative",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Every dtype but float8."""
        return Refusal("an epilogue") if spec.epilogue is not None else epilogue_refusal(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Images of four or five axes in both layouts."""
        return image_or_plain_choices(spec)

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Always: strides are constants of the source."""
        return True

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One launch."""
        problem = cumulative_problem(spec)
        kernel = cpp_kernel(weights, "cumulative", cumulative_source(problem))
        rows = count(problem.rows)
        blocks = -(-rows // THREADS) if problem.is_sequential else rows
        return KernelPrepared([Launch(
            kernel, (blocks, 1, 1), (THREADS, 1, 1),
            [operand(spec, weights, 0), Out(0), I64(rows)], overlaps=True,
        )])


def cumulative_problem(spec: LayerSpec) -> CumulativeProblem:
    """The walk over the other axes."""
    kind = spec.kind
    if not isinstance(kind, Cumulative):
        raise Unprepared(f"{kind.name} is not a running {kind}")
    x, y = spec.inputs[0], spec.outputs[0]
    rows = merge_axes(
        walk((axis for axis in x.memory_order if axis != kind.axis), x.shape, x.strides, y.strides)
    )
    axis = Axis(x.shape[kind.axis], (x.strides[kind.axis], y.strides[kind.axis]))
    is_sequential = axis.size <= _SHORT or (axis.strides[0] > 1 and count(rows) >= _MANY)
    return CumulativeProblem(
        kind.mode, c_type(x.dtype), accumulator_type(x.dtype), tuple(rows), axis.size,
        (axis.strides[0], axis.strides[1]), is_sequential, index_type([*rows, axis]),
    )
