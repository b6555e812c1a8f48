"""Pointwise layers by oneDNN: chains are one primitive with post-ops, in any layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt import expression as ex
from torch2rt.backends.cpu.descriptors import data_type, describe_broadcast, lie_alike
from torch2rt.backends.cpu.epilogue import as_f32
from torch2rt.backends.cpu.expression_steps import ExpressionSteps, without_root_cast
from torch2rt.backends.cpu.layouts import computes_in, spatial_layouts
from torch2rt.backends.cpu.numpy_expression import missing_op
from torch2rt.backends.cpu.onednn import DataType, MemoryDesc
from torch2rt.backends.cpu.post_ops import unsupported_op
from torch2rt.backends.cpu.quantized import integer_refusal, without_rounding
from torch2rt.backends.cpu.steps import StepBuilder
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.layers.accumulator import EIGHT_BITS
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.dtype import DType

_FLOATS = (DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16)


class PointwiseChains(Tactic):
    """One primitive per chain of the expression; what is used twice goes to the workspace."""

    name: ClassVar[str] = "pointwise.onednn.chains"
    kinds: ClassVar[tuple[str, ...]] = ("pointwise",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats and bytes, ops that oneDNN has, and one operand with the whole shape."""
        output = spec.outputs[0]
        if not any(tensor.shape == output.shape for tensor in spec.inputs):
            return Refusal("no operand has the whole shape of the result")
        for tensor in (*spec.inputs, output):
            if tensor.dtype is DType.BOOL or tensor.dtype in EIGHT_BITS:
                continue
            if tensor.dtype not in _FLOATS or not computes_in(tensor.dtype):
                return Refusal(f"{tensor.dtype.value} is not computed by oneDNN here")
        if output.rank > MAX_RANK:
            return Refusal(f"{output.rank} axes")
        dtypes = [tensor.dtype for tensor in spec.inputs]
        reason = integer_refusal(whole_expression(spec), dtypes, output.dtype)
        if reason is not None:
            return reason
        missing = unsupported_op(expression_of(spec))
        if missing is None:
            return None
        numpy_missing = missing_op(expression_of(spec), is_double=False)
        is_spatial = output.rank in (3, 4, 5) and output.dtype is not DType.BOOL
        if numpy_missing is not None or not is_spatial:
            return Refusal(f"oneDNN has no {missing}")
        return None

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Every layout, shared by the result and all operands that have all its axes."""
        rank = spec.outputs[0].rank
        return [
            LayoutChoice(
                tuple(
                    layout if constant is None and tensor.rank == rank else Layout.PLAIN
                    for tensor, constant in zip(spec.inputs, spec.constants, strict=True)
                ),
                (layout,),
            )
            for layout in spatial_layouts(rank)
        ]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Create the primitives."""
        builder = StepBuilder(spec, weights)
        output = spec.outputs[0]
        rank = max(output.rank, 1)
        leaves = {
            index: builder.input(index, describe_broadcast(tensor, rank))
            for index, tensor in enumerate(spec.inputs) if data_type(tensor.dtype) is not None
        }
        target = builder.output(0)

        def layout_of(dims: tuple[int, ...]) -> MemoryDesc:
            is_whole = dims == target.desc.dims
            return as_f32(target.desc) if is_whole else MemoryDesc.plain(dims, DataType.f32)

        booleans = frozenset(
            index for index, tensor in enumerate(spec.inputs) if tensor.dtype is DType.BOOL
        )
        steps = ExpressionSteps(builder, leaves, layout_of, booleans)
        steps.store(without_rounding(expression_of(spec), output.dtype), target)
        if len(builder.steps) == 1:
            builder.may_overwrite = tuple(
                index for index, tensor in enumerate(spec.inputs)
                if lie_alike(tensor, output) and spec.constants[index] is None
            )
        return builder.finish()


MAX_RANK = 6


def expression_of(spec: LayerSpec) -> ex.Expression:
    """The layer's expression with its epilogue, without a final cast to the result's own dtype."""
    return without_root_cast(whole_expression(spec), spec.outputs[0].dtype)


def whole_expression(spec: LayerSpec) -> ex.Expression:
    """The layer's expression with its epilogue."""
    if not isinstance(spec.kind, Pointwise):
        raise Unprepared(f"{spec.kind.name} is not pointwise")
    root = spec.kind.expression
    if spec.epilogue is not None:
        shifted = ex.shift_inputs(spec.epilogue, 1, spec.main_count - 1)
        root = ex.substitute_inputs(shifted, {0: root})
    return root
