"""Matrix products by oneDNN's matmul: packed weights, transposes as strides, epilogue fused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.descriptors import aligned_shape, data_type
from torch2rt.backends.cpu.epilogue import Fusion, add_fused
from torch2rt.backends.cpu.layouts import is_supported_contraction
from torch2rt.backends.cpu.onednn import Arg, Attributes, DataType, MemoryDesc, PrimitiveDesc
from torch2rt.backends.cpu.steps import Source, StepBuilder
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import Array

MAX_RANK = 6


class PackedMatmul(Tactic):
    """One matmul primitive; constant weights in the layout it likes, others where they lie."""

    name: ClassVar[str] = "matmul.onednn.packed"
    kinds: ClassVar[tuple[str, ...]] = ("matmul",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats that the CPU computes in, or bytes."""
        if spec.outputs[0].rank > MAX_RANK:
            return Refusal(f"{spec.outputs[0].rank} axes")
        return is_supported_contraction(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Create the primitive and pack the weights."""
        builder = StepBuilder(spec, weights)
        shapes = matmul_shapes(spec)
        element = element_type(spec, 1)
        left = builder.input(0, MemoryDesc.plain(shapes.a, element_type(spec), shapes.a_strides))
        is_packed = spec.constants[1] is not None
        right = MemoryDesc.plain(shapes.b, element, shapes.b_strides)
        asked = MemoryDesc.any(shapes.b, element) if is_packed else right
        target = builder.output(0, MemoryDesc.plain(shapes.y, data_type_of_output(spec)))

        def make(bias: MemoryDesc | None, dst: MemoryDesc, attributes: Attributes) -> PrimitiveDesc:
            return onednn.matmul(left.desc, asked, bias, dst, attributes=attributes)

        def operands(desc: PrimitiveDesc) -> dict[int, Source]:
            second = (
                builder.constant(1, desc.weights, shapes.view_b, shapes.view_name)
                if is_packed else builder.input(1, right)
            )
            return {Arg.src: left, Arg.weights: second}

        def describe(index: int) -> MemoryDesc:
            return describe_flattened(spec.inputs[index], spec.outputs[0].shape, shapes.y)

        add_fused(builder, Fusion(
            make, operands, channel_axis=len(shapes.y) - 1, describe=describe, output=target.desc,
            has_wide_bias=True, weight_scale_mask=1 << len(shapes.b) - 1,
        ))
        return builder.finish()


@dataclass(frozen=True, slots=True)
class MatmulShapes:
    """Dims and strides (elements) of a [..., m, k], b [..., k, n] and y [..., m, n], one rank.

    With one weight for the whole batch, the leading axes of a are flattened into m.
    """

    a: tuple[int, ...]
    a_strides: tuple[int, ...]
    b: tuple[int, ...]
    b_strides: tuple[int, ...]
    y: tuple[int, ...]
    is_b_transposed: bool

    @property
    def view_name(self) -> str:
        """Tells packed forms of one weight apart."""
        return "transposed" if self.is_b_transposed else "straight"

    def view_b(self, array: Array) -> Array:
        """The weights as [..., k, n], from their stored shape."""
        return array.swapaxes(-1, -2) if self.is_b_transposed else array


def matmul_shapes(spec: LayerSpec) -> MatmulShapes:
    """The dims that the primitive sees."""
    kind = matmul_kind(spec)
    a, b, y = spec.inputs[0].shape, spec.inputs[1].shape, spec.outputs[0].shape
    k = a[-2] if kind.transpose_a else a[-1]
    is_shared = math.prod(b[:-2]) == 1 and not kind.transpose_a
    if is_shared:
        m = math.prod(a[:-1])
        return MatmulShapes(
            (m, k), (k, 1), *_matrix(b[-2:], kind.transpose_b), (m, y[-1]), kind.transpose_b
        )
    rank = len(y)
    return MatmulShapes(
        *_matrix(aligned_shape(a, rank), kind.transpose_a),
        *_matrix(aligned_shape(b, rank), kind.transpose_b), y, kind.transpose_b,
    )


def _matrix(shape: tuple[int, ...], is_transposed: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Logical dims and strides of a stored matrix or stack of matrices."""
    strides = onednn.layout.row_major_strides(shape)
    if not is_transposed:
        return shape, strides
    return (*shape[:-2], shape[-1], shape[-2]), (*strides[:-2], strides[-1], strides[-2])


def describe_flattened(
    operand: TensorSpec, shape: tuple[int, ...], dims: tuple[int, ...]
) -> MemoryDesc:
    """The descriptor of an epilogue operand where ``shape`` is seen as ``dims``.

    Raises Unprepared where it cannot be seen so without repeating it.
    """
    element = data_type(operand.dtype)
    if element is None:
        raise Unprepared(f"oneDNN has no {operand.dtype.value}")
    aligned = aligned_shape(operand.shape, len(shape))
    if len(dims) == len(shape):
        return MemoryDesc.plain(aligned, element)
    leading = aligned[:-1]
    if all(size == 1 for size in leading):
        return MemoryDesc.plain((1, aligned[-1]), element)
    if leading == shape[:-1]:
        return MemoryDesc.plain((dims[0], aligned[-1]), element)
    raise Unprepared("an operand of the epilogue repeats along some of the flattened axes")


def matmul_kind(spec: LayerSpec) -> Matmul:
    """The layer's kind."""
    if not isinstance(spec.kind, Matmul):
        raise Unprepared(f"{spec.kind.name} is not a matmul")
    return spec.kind


def element_type(spec: LayerSpec, index: int = 0) -> DataType:
    """Type of an input as oneDNN names it."""
    element = data_type(spec.inputs[index].dtype)
    if element is None:
        raise Unprepared(f"oneDNN has no {spec.inputs[index].dtype.value}")
    return element


def data_type_of_output(spec: LayerSpec) -> DataType:
    """Type of the output as oneDNN names it."""
    element = data_type(spec.outputs[0].dtype)
    if element is None:
        raise Unprepared(f"oneDNN has no {spec.outputs[0].dtype.value}")
    return element

