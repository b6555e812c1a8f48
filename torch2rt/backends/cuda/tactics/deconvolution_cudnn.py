"""Deconvolution by cuDNN, as the gradient of a convolution to its image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.cudnn.description import GraphWriter, NotInCudnn
from torch2rt.backends.cuda.cudnn.images import (
    add_image_operands,
    image,
    image_graph,
    image_layouts,
    with_two_axes,
)
from torch2rt.backends.cuda.cudnn.operands import check_floats, check_rows
from torch2rt.backends.cuda.cudnn.tactic import CudnnTactic, LayerGraph, plan_variants
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.layers.deconvolution import Deconvolution

PLAN_COUNT = 4


class CudnnDeconvolution(CudnnTactic):
    """A data gradient node, then pointwise nodes."""

    kinds: ClassVar[tuple[str, ...]] = ("deconvolution",)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Images channels last; weights as they are where they are constants."""
        return (image_layouts(spec),)

    def graph(self, spec: LayerSpec) -> LayerGraph:
        """The graph. NotInCudnn for few or odd channels a group, and cut outputs."""
        kind = spec.kind
        if not isinstance(kind, Deconvolution):
            raise NotInCudnn(f"{kind.name} is not a deconvolution")
        check_floats(spec)
        first, second = spec.inputs[1].shape[:2]
        check_rows(spec.inputs[1].dtype, first // kind.groups, second)
        if kind.groups > 1 and spec.epilogue is not None:
            raise NotInCudnn("groups with an epilogue: cuDNN has no plan")
        if any(padding < 0 for padding in kind.padding_before):
            raise NotInCudnn("negative padding")
        writer = GraphWriter()
        loss, weight, *extras = add_image_operands(writer, spec)
        result = writer.node(
            "conv_dgrad", loss, weight,
            pre_padding=with_two_axes(kind.padding_before, 0),
            post_padding=with_two_axes(_padding_after(kind), 0),
            stride=with_two_axes(kind.stride, 1), dilation=with_two_axes(kind.dilation, 1),
            sizes=image(spec.outputs[0]).dims,
        )
        return image_graph(writer, spec, result, extras, tf32=kind.tf32)


def _padding_after(kind: Deconvolution) -> tuple[int, ...]:
    """Padding of the convolution whose gradient this is.

    Less than a stride more than ours leaves the size of its output as it is, which is our input.
    """
    padding = tuple(max(0, after) for after in kind.padding_after)
    moved = (p - after for p, after in zip(padding, kind.padding_after, strict=True))
    if any(step >= stride for step, stride in zip(moved, kind.stride, strict=True)):
        raise NotInCudnn("an output that goes on behind the last pixel by a stride or more")
    return padding


globals().update(plan_variants(CudnnDeconvolution, "deconvolution.cudnn", PLAN_COUNT, __name__))
