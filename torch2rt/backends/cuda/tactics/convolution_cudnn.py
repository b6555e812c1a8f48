"""Convolution by cuDNN, the whole epilogue fused: one tactic per plan that it proposes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.cudnn.description import GraphWriter, NotInCudnn
from torch2rt.backends.cuda.cudnn.images import (
    add_image_operands,
    image_graph,
    image_layouts,
    with_two_axes,
)
from torch2rt.backends.cuda.cudnn.operands import check_factors, check_rows
from torch2rt.backends.cuda.cudnn.tactic import CudnnTactic, LayerGraph, plan_variants
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.layers.convolution import Convolution
from torch2rt.network.dtype import DType

# Building a plan takes up to a second of a core, and the best is rarely behind these.
PLAN_COUNT = 6


class CudnnConvolution(CudnnTactic):
    """A forward convolution node, then pointwise nodes."""

    kinds: ClassVar[tuple[str, ...]] = ("convolution",)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Images channels last; weights as they are where they are constants."""
        return (image_layouts(spec),)

    def graph(self, spec: LayerSpec) -> LayerGraph:
        """The graph. NotInCudnn for few channels a group, and odd numbers of them."""
        kind = spec.kind
        if not isinstance(kind, Convolution):
            raise NotInCudnn(f"{kind.name} is not a convolution")
        check_factors(spec)
        first, second = spec.inputs[1].shape[:2]
        check_rows(spec.inputs[1].dtype, first // kind.groups, second)
        writer = GraphWriter()
        image, weight, *extras = add_image_operands(writer, spec)
        result = writer.node(
            "conv_fprop", image, weight,
            pre_padding=with_two_axes(kind.padding_before, 0),
            post_padding=with_two_axes(kind.padding_after, 0),
            stride=with_two_axes(kind.stride, 1), dilation=with_two_axes(kind.dilation, 1),
            **_sums(spec),
        )
        return image_graph(writer, spec, result, extras, tf32=kind.tf32)


def _sums(spec: LayerSpec) -> dict[str, bool]:
    """Attributes of a convolution that sums bytes; floats have none, as ever."""
    return {"is_integer": True} if spec.inputs[0].dtype is DType.INT8 else {}


globals().update(plan_variants(CudnnConvolution, "convolution.cudnn", PLAN_COUNT, __name__))
