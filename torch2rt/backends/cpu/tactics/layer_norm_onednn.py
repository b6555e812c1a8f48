"""Layer norm and RMS norm by oneDNN, over rows of the trailing axes."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.epilogue import Fusion, add_fused
from torch2rt.backends.cpu.layouts import is_supported_float
from torch2rt.backends.cpu.onednn import (
    Algorithm,
    Arg,
    Attributes,
    DataType,
    Eltwise,
    MemoryDesc,
    Norm,
    PrimitiveDesc,
)
from torch2rt.backends.cpu.steps import Source, StepBuilder
from torch2rt.backends.cpu.tactics.matmul_onednn import (
    data_type_of_output,
    describe_flattened,
    element_type,
)
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.layers.layer_norm import LayerNorm


class RowNorm(Tactic):
    """One layer normalization primitive; an RMS norm first reduces the mean square itself."""

    name: ClassVar[str] = "layer_norm.onednn.rows"
    kinds: ClassVar[tuple[str, ...]] = ("layer_norm",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats that the CPU computes in, constant scale and shift, an epilogue in rows."""
        if any(name is None for name in spec.constants[1 : spec.main_count]):
            return Refusal("scale and shift are not constants")
        if _kind(spec).axis_count > 1 and spec.main_count < len(spec.inputs):
            return Refusal("an epilogue with operands over several normalized axes")
        return is_supported_float(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Create the primitives."""
        builder = StepBuilder(spec, weights)
        kind = _kind(spec)
        shape = spec.inputs[0].shape
        dims = (math.prod(shape[: -kind.axis_count]), math.prod(shape[-kind.axis_count :]))
        source = builder.input(0, MemoryDesc.plain(dims, element_type(spec)))
        flags = kind.has_weight * Norm.use_scale | kind.has_bias * Norm.use_shift
        memories: dict[int, Source] = {Arg.src: source}
        affine = MemoryDesc.plain((dims[1],), DataType.f32)
        if kind.has_weight:
            memories[Arg.scale] = builder.constant(1, affine)
        if kind.has_bias:
            memories[Arg.shift] = builder.constant(1 + kind.has_weight, affine)
        statistics = None
        if not kind.is_centered:
            flags |= Norm.use_global_stats
            statistics = MemoryDesc.plain((dims[0],), DataType.f32)
            memories |= _mean_square(builder, source, statistics)

        def make(bias: MemoryDesc | None, dst: MemoryDesc, attributes: Attributes) -> PrimitiveDesc:
            return onednn.layer_normalization(
                source.desc, dst, epsilon=kind.eps, flags=flags, statistics=statistics,
                attributes=attributes,
            )

        add_fused(builder, Fusion(
            make, lambda desc: memories, can_sum=False,
            describe=lambda index: describe_flattened(spec.inputs[index], shape, dims),
            output=MemoryDesc.plain(dims, data_type_of_output(spec)),
        ))
        return builder.finish()


def _mean_square(
    builder: StepBuilder, source: Source, statistics: MemoryDesc
) -> dict[int, Source]:
    """Add the step that reduces x^2 to its mean per row; a mean of zero stands beside it."""
    rows, columns = source.desc.dims
    square = builder.temporary(MemoryDesc.plain((rows, 1), DataType.f32))
    desc = onednn.reduction(
        Algorithm.reduction_norm_lp_power_p_sum, source.desc, square.desc, power=2.0,
        attributes=Attributes([Eltwise(Algorithm.linear, 1.0 / columns)]),
    )
    builder.execute(desc, {Arg.src: source, Arg.dst: square})
    zeros = builder.literal(("zeros", rows), np.zeros(rows, np.float32), statistics)
    variance = type(square)(square.place, statistics)
    return {Arg.mean: zeros, Arg.variance: variance}


def _kind(spec: LayerSpec) -> LayerNorm:
    if not isinstance(spec.kind, LayerNorm):
        raise Unprepared(f"{spec.kind.name} is not a layer norm")
    return spec.kind
