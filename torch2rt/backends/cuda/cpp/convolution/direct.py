"""The direct kernel for convolutions and transposed convolutions: any attributes, any layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.convolution import estimates, specs
from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.cpp.walks import extra_arguments
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.cuda.launch import I64, Argument, In, KernelPrepared, Launch, Out, Packed
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights
from torch2rt.kernels.cuda import direct_convolution as direct
from torch2rt.kernels.cuda.convolution_shape import ConvolutionShape
from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.network.dtype import Array

# Multiply-adds of a multiprocessor per microsecond; microseconds of a step of a sum.
_MULTIPLIES, _STEP_US = 30e3, 0.02


class DirectTactic(Tactic):
    """One thread per pixel and few filters."""

    transposed: ClassVar[bool]

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """All but the weights go by strides."""
        return spec.inputs[1].is_dense

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats, and bytes with weights that are constant."""
        return specs.refusal(spec, takes_bytes=spec.constants[1] is not None)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Images with channels last, sequences row-major. The kernel takes any layout."""
        layout = Layout.PLAIN if spec.inputs[0].rank == 3 else Layout.CHANNELS_LAST
        return (specs.layout_choice(spec, layout, layout),)

    def estimate_us(self, spec: LayerSpec) -> float:
        """Loads of weights from the caches bound it, and the length of a thread's sum."""
        filters = spec.outputs[0].shape[1]
        taps = math.prod(spec.inputs[1].shape) // filters
        # Few filters of a group share what is loaded of the image.
        shared = math.gcd(filters // specs.attributes(spec).groups, 8) / 8
        busy = estimates.multiplied_us(spec, _MULTIPLIES * shared)
        return estimates.START_US + 1.5 * estimates.moved_us(spec) + max(busy, taps * _STEP_US)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Compile; pack constant weights as floats with the filters innermost."""
        shape = specs.shape_of(spec)
        vector = direct.vector_size(shape, current_device().multiprocessors)
        where, weight = self._weight(spec, shape, weights)
        source = direct.direct_source(shape, where, vector, self.transposed)
        threads = direct.thread_count(shape, vector)
        launch = Launch(
            cpp_kernel(weights, direct.NAME, source),
            (-(-threads // direct.THREADS), 1, 1), (direct.THREADS, 1, 1),
            [In(0), weight, Out(), *extra_arguments(spec, weights), I64(threads)],
            overlaps=True,
        )
        return KernelPrepared([launch])

    def _weight(
        self, spec: LayerSpec, shape: ConvolutionShape, weights: Weights
    ) -> tuple[direct.DirectWeight, Argument]:
        if spec.constants[1] is None:
            type = c_type(spec.inputs[1].dtype)
            return direct.plain_weight(shape, type, self.transposed), operand(spec, weights, 1)
        form = f"direct {shape.groups} {self.transposed}"
        return direct.packed_weight(shape), Packed(
            specs.packed_weight(spec, weights, form, lambda array: self._pack(array, shape))
        )

    def _pack(self, array: Array, shape: ConvolutionShape) -> Array:
        """[group, tap, channel of the group, filter of the group]."""
        inner = (shape.group_in, shape.group_out)
        if not self.transposed:
            inner = (shape.group_out, shape.group_in)
        grouped = array.reshape(shape.groups, *inner, shape.taps)
        axes = (0, 3, 1, 2) if self.transposed else (0, 3, 2, 1)
        return np.transpose(grouped, axes)
