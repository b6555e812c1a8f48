"""Convolutions in groups of few channels by ordinary multiply-adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from torch2rt.backends.cuda.cpp.convolution import estimates, specs
from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.cpp.walks import extra_arguments
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.cuda.launch import I32, In, KernelPrepared, Launch, Out, Packed
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights
from torch2rt.kernels.cuda import grouped_convolution as grouped
from torch2rt.network.dtype import Array

_MAX_CHANNELS = 32
_MAX_THREADS = 2**31 - 1
# Multiply-adds of a multiprocessor per microsecond, loads of weights counted.
_MULTIPLIES = 80e3


class GroupedConvolution(Tactic):
    """Groups of up to 32 channels: ResNeXt's and RegNet's, and several filters per channel."""

    name: ClassVar[str] = "convolution.cuda.grouped"
    kinds: ClassVar[tuple[str, ...]] = ("convolution",)

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """All but the weights go by strides."""
        return spec.inputs[1].is_dense

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Several groups over one or two axes, constant weights."""
        refusal = specs.refusal(spec, takes_bytes=True)
        if refusal is not None:
            return refusal
        groups = specs.attributes(spec).groups
        channels, filters = spec.inputs[0].shape[1] // groups, spec.outputs[0].shape[1]
        if groups == 1 or channels > _MAX_CHANNELS:
            return Refusal(f"{groups} groups of {channels} channels")
        if channels == 1 and filters == groups:
            return Refusal("depthwise, which has a kernel of its own")
        if spec.inputs[0].rank > 4:
            return Refusal("three spatial axes")
        if spec.constants[1] is None:
            return Refusal("weights that are not constant")
        if spec.outputs[0].element_count > _MAX_THREADS:
            return Refusal("2^31 results and more")
        return None

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Channels last."""
        return (specs.layout_choice(spec, Layout.CHANNELS_LAST, Layout.CHANNELS_LAST),)

    def estimate_us(self, spec: LayerSpec) -> float:
        """Bytes or multiply-adds bound it."""
        busy = estimates.multiplied_us(spec, _MULTIPLIES)
        return estimates.START_US + max(1.2 * estimates.moved_us(spec), busy)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Compile; weights as floats, filters innermost."""
        shape = specs.shape_of(spec)
        plan = grouped.plan_grouped(shape, current_device().multiprocessors)
        threads = plan.thread_count(shape)
        launch = Launch(
            cpp_kernel(weights, grouped.NAME, grouped.grouped_source(shape, plan)),
            (-(-threads // grouped.THREADS), 1, 1), (grouped.THREADS, 1, 1),
            [
                In(0), Packed(specs.packed_weight(spec, weights, "grouped", _pack)), Out(),
                *extra_arguments(spec, weights), I32(threads),
            ],
            overlaps=True,
        )
        return KernelPrepared([launch])


def _pack(array: Array) -> Array:
    """[k, c/groups, *kernel] as [*kernel, c/groups, k]."""
    return np.transpose(array, (*range(2, array.ndim), 1, 0))
