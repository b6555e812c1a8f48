"""Group norm and instance norm by our kernels: statistics, factors, result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.cpp.walks import (
    accumulator_type,
    epilogue_refusal,
    first_overwritten,
    image_choice,
    itemsize_bytes,
)
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.cuda.launch import I32, I64, KernelPrepared, Launch, Out, Work
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.kernels.cuda.group_norm import (
    APPLY_THREADS,
    FINISH_THREADS,
    GroupNormProblem,
    apply_source,
    finish_source,
    statistics_source,
)
from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.kernels.cuda.strided import Axis, count, index_type, merge_axes, vector_size
from torch2rt.layers.group_norm import GroupNorm

_THREADS = 256
_MAX_GRID = 65535


class WalkGroupNorm(Tactic):
    """Three launches."""

    name: ClassVar[str] = "group_norm.cuda.walk"
    kinds: ClassVar[tuple[str, ...]] = ("group_norm",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats of 16 to 64 bits."""
        if spec.epilogue is not None:
            return Refusal("an epilogue")
        if not all(tensor.dtype.is_float for tensor in spec.inputs):
            return Refusal("not a float")
        if spec.inputs[0].shape[0] > _MAX_GRID:
            return Refusal(f"more than {_MAX_GRID} samples")
        return epilogue_refusal(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Channels innermost in images."""
        return [image_choice(spec)]

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Whenever scale and shift are dense."""
        return all(tensor.is_dense for tensor in spec.inputs[1:])

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Statistics per channel, factors per channel, result."""
        problem = group_norm_problem(spec, current_device().multiprocessors)
        channels, (across, down) = problem.channels, problem.lanes
        item = itemsize_bytes(problem.accumulator)
        factors = 2 * problem.batch * channels * item
        partial = Work(-(-factors // 256) * 256)
        groups = problem.batch * problem.groups
        x, *affine = [operand(spec, weights, i) for i in range(len(spec.inputs))]
        statistics = cpp_kernel(weights, "group_statistics", statistics_source(problem))
        finish = cpp_kernel(weights, "group_finish", finish_source(problem))
        apply = cpp_kernel(weights, "group_apply", apply_source(problem))
        grid = (-(-channels // (across * problem.vector)), problem.splits, problem.batch)
        per_block = FINISH_THREADS // 32
        return KernelPrepared(
            [
                Launch(statistics, grid, (across, down, 1), [x, partial], overlaps=True),
                Launch(finish, (-(-groups // per_block), 1, 1), (FINISH_THREADS, 1, 1),
                       [partial, Work(), *affine, I32(groups)], overlaps=True),
                Launch(apply, (-(-problem.vectors // APPLY_THREADS), 1, 1), (APPLY_THREADS, 1, 1),
                       [x, Out(0), Work(), I64(problem.vectors)], overlaps=True),
            ],
            workspace_bytes=partial.offset_bytes + factors * problem.splits,
            may_overwrite=first_overwritten(spec),
        )


def group_norm_problem(spec: LayerSpec, multiprocessors: int) -> GroupNormProblem:
    """Walks in the order of memory; the pixels are split until every multiprocessor has work."""
    kind, x, y = _kind(spec), spec.inputs[0], spec.outputs[0]
    batch, channels = x.shape[:2]
    factors = (channels, 1, *(0,) * (x.rank - 2))
    everything = merge_axes(
        Axis(x.shape[i], (x.strides[i], y.strides[i], factors[i])) for i in x.memory_order
    )
    pixels = merge_axes(Axis(x.shape[i], (x.strides[i],)) for i in range(2, x.rank))
    item = x.dtype.itemsize_bytes
    vector = vector_size(
        Axis(channels, (x.strides[1],)), [Axis(batch, (x.strides[0],)), *pixels], item, 1
    )
    apply_vector = vector_size(everything[-1], everything[:-1], item, 2) if everything else 1
    lanes = (8, _THREADS // 8) if vector > 1 or x.strides[1] == 1 else (1, _THREADS)
    blocks = -(-channels // (lanes[0] * vector)) * batch
    splits = max(1, min(-(-2 * multiprocessors // blocks), count(pixels) // (4 * lanes[1])))
    chunk = -(-count(pixels) // splits)
    affine = [c_type(tensor.dtype) for tensor in spec.inputs[1:]]
    return GroupNormProblem(
        c_type(x.dtype), accumulator_type(x.dtype), batch, channels, kind.groups, tuple(pixels),
        tuple(everything), (x.strides[0], x.strides[1]), vector, apply_vector, lanes,
        -(-count(pixels) // chunk), kind.eps, affine[0] if kind.has_weight else None,
        affine[-1] if kind.has_bias else None, index_type(everything),
    )


def _kind(spec: LayerSpec) -> GroupNorm:
    if not isinstance(spec.kind, GroupNorm):
        raise Unprepared(f"{spec.kind.name} is not a group norm")
    return spec.kind
