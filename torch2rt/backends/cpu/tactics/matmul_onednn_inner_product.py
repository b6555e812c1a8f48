"""Matrix products with one constant weight by oneDNN's inner product."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.epilogue import Fusion, add_fused
from torch2rt.backends.cpu.layouts import is_supported_contraction
from torch2rt.backends.cpu.onednn import Arg, Attributes, MemoryDesc, PrimitiveDesc
from torch2rt.backends.cpu.steps import Source, StepBuilder
from torch2rt.backends.cpu.tactics.matmul_onednn import (
    data_type_of_output,
    describe_flattened,
    element_type,
    matmul_kind,
    matmul_shapes,
)
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights
from torch2rt.network.dtype import Array


class InnerProduct(Tactic):
    """One inner product primitive with packed weights."""

    name: ClassVar[str] = "matmul.onednn.inner_product"
    kinds: ClassVar[tuple[str, ...]] = ("matmul",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """One constant weight for all rows, floats that the CPU computes in, or bytes."""
        if spec.constants[1] is None or spec.constants[0] is not None:
            return Refusal("the weight is not a constant")
        shape = spec.inputs[1].shape
        if matmul_kind(spec).transpose_a or any(size != 1 for size in shape[:-2]):
            return Refusal("there is not one weight for all rows")
        return is_supported_contraction(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Create the primitive and pack the weights."""
        builder = StepBuilder(spec, weights)
        shapes = matmul_shapes(spec)
        element = element_type(spec, 1)
        source = builder.input(0, MemoryDesc.plain(shapes.a, element_type(spec)))
        target = MemoryDesc.plain(shapes.y, data_type_of_output(spec))
        asked = MemoryDesc.any((shapes.y[-1], shapes.a[-1]), element)

        def view(array: Array) -> Array:
            matrix = array.reshape(array.shape[-2:])
            return matrix if shapes.is_b_transposed else matrix.T

        def make(bias: MemoryDesc | None, dst: MemoryDesc, attributes: Attributes) -> PrimitiveDesc:
            return onednn.inner_product(source.desc, asked, bias, dst, attributes=attributes)

        def operands(desc: PrimitiveDesc) -> dict[int, Source]:
            packed = builder.constant(1, desc.weights, view, f"rows of {shapes.view_name}")
            return {Arg.src: source, Arg.weights: packed}

        def describe(index: int) -> MemoryDesc:
            return describe_flattened(spec.inputs[index], spec.outputs[0].shape, shapes.y)

        add_fused(builder, Fusion(
            make, operands, channel_axis=1, describe=describe, output=target
        ))
        return builder.finish()
