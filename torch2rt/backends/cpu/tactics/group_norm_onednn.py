"""Group norm by oneDNN: rows of a group's channels normalized, then scaled per channel."""

from __future__ import annotations

import math
from typing import ClassVar

from torch2rt import expression as ex
from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.descriptors import data_type, describe_broadcast
from torch2rt.backends.cpu.expression_steps import ExpressionSteps, without_root_cast
from torch2rt.backends.cpu.layouts import is_supported_float
from torch2rt.backends.cpu.onednn import Arg, DataType, MemoryDesc
from torch2rt.backends.cpu.steps import Operand, Source, StepBuilder
from torch2rt.backends.cpu.tactics.matmul_onednn import element_type
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.layers.group_norm import GroupNorm


class RowGroupNorm(Tactic):
    """A layer normalization without scale, then one binary primitive; row-major."""

    name: ClassVar[str] = "group_norm.onednn.rows"
    kinds: ClassVar[tuple[str, ...]] = ("group_norm",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats that the CPU computes in."""
        if spec.outputs[0].rank > 5:
            return Refusal(f"{spec.outputs[0].rank} axes")
        return is_supported_float(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Create the two primitives."""
        builder = StepBuilder(spec, weights)
        kind = group_norm_kind(spec)
        shape = spec.inputs[0].shape
        rows = shape[0] * kind.groups
        dims = (rows, math.prod(shape) // rows)
        source = builder.input(0, MemoryDesc.plain(dims, element_type(spec)))
        normalized = builder.temporary(MemoryDesc.plain(shape, DataType.f32))
        flat = Operand(normalized.place, MemoryDesc.plain(dims, DataType.f32))
        try:
            desc = onednn.layer_normalization(source.desc, flat.desc, epsilon=kind.eps)
            mixed = source
        except onednn.OneDNNError:
            mixed = builder.converted(source, flat.desc)
            desc = onednn.layer_normalization(flat.desc, flat.desc, epsilon=kind.eps)
        builder.execute(desc, {Arg.src: mixed, Arg.dst: flat})
        leaves, root = affine_expression(builder, normalized)

        def layout_of(dims: tuple[int, ...]) -> MemoryDesc:
            return MemoryDesc.plain(dims, DataType.f32)

        ExpressionSteps(builder, leaves, layout_of).store(root, builder.output())
        return builder.finish()


def affine_expression(
    builder: StepBuilder, normalized: Source
) -> tuple[dict[int, Source], ex.Expression]:
    """The epilogue of normalized * weight + bias, and the leaves of that expression."""
    spec = builder.spec
    kind = group_norm_kind(spec)
    rank = spec.outputs[0].rank
    leaves: dict[int, Source] = {0: normalized}
    root: ex.Expression = ex.Input(0)
    position = 1
    for op, is_given in (("mul", kind.has_weight), ("add", kind.has_bias)):
        if is_given:
            leaves[position] = builder.input(position, _per_channel(spec, position, rank))
            root = ex.apply(op, root, ex.Input(position))
            position += 1
    if spec.epilogue is not None:
        shifted = ex.shift_inputs(spec.epilogue, 1, position - 1)
        root = ex.substitute_inputs(shifted, {0: root})
        for index in range(position, len(spec.inputs)):
            leaves[index] = builder.input(index, describe_broadcast(spec.inputs[index], rank))
    return leaves, without_root_cast(root, spec.outputs[0].dtype)


def _per_channel(spec: LayerSpec, index: int, rank: int) -> MemoryDesc:
    element = data_type(spec.inputs[index].dtype)
    if element is None:
        raise Unprepared(f"oneDNN has no {spec.inputs[index].dtype.value}")
    dims = (1, spec.inputs[index].shape[0]) + (1,) * (rank - 2)
    return MemoryDesc.plain(dims, DataType.f32 if spec.constants[index] else element)


def group_norm_kind(spec: LayerSpec) -> GroupNorm:
    """The layer's kind."""
    if not isinstance(spec.kind, GroupNorm):
        raise Unprepared(f"{spec.kind.name} is not a group norm")
    return spec.kind
