"""Convolutions of few channels on the tensor cores: what stems and grouped ones share."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.cpp.convolution import estimates, specs
from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.cpp.walks import extra_arguments
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.cuda.launch import In, KernelPrepared, Launch, Out, Packed
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.kernels.cuda import patch_convolution as patch
from torch2rt.kernels.cuda.patch_plan import PatchPlan, pack_patch_weight, plan_patch
from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.network.dtype import DType

_HALVES = (DType.FLOAT16, DType.BFLOAT16)
_MAX_STEM_CHANNELS, _MAX_STEM_TAPS = 8, 800
# Blocks per multiprocessor below which smaller tiles are the better ones, above which larger.
_FEW_BLOCKS, _MANY_BLOCKS = 1, 32


class PatchTactic(Tactic):
    """A block makes ``pixels`` pixels of up to 96 filters from a patch in shared memory."""

    kinds: ClassVar[tuple[str, ...]] = ("convolution",)
    pixels: ClassVar[int]
    interleaved: ClassVar[bool]

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """All but the weights go by strides."""
        return spec.inputs[1].is_dense

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """16-bit floats or bytes, constant weights, one or two axes, what shared memory holds."""
        refusal = specs.refusal(spec, takes_bytes=True)
        if refusal is not None:
            return refusal
        x, weight = spec.inputs[:2]
        if weight.dtype not in (*_HALVES, DType.INT8):
            return Refusal("not 16-bit floats or bytes")
        if x.rank > 4:
            return Refusal("three spatial axes")
        if spec.constants[1] is None:
            return Refusal("weights that are not constant")
        if current_device().capability < (8, 0):
            return Refusal("tensor cores of before sm_80")
        return self.bad_channels(spec) or self._bad_size(spec)

    @abc.abstractmethod
    def bad_channels(self, spec: LayerSpec) -> Refusal | None:
        """Why the channels, groups and window are not for this tactic, or None."""

    def _bad_size(self, spec: LayerSpec) -> Refusal | None:
        """Why the tile is too large for shared memory, or another size serves better."""
        plan = self._plan(spec.with_layouts(self.layouts(spec)[0]))
        device = current_device()
        if plan.shared_bytes > device.shared_bytes:
            return Refusal(f"{plan.shared_bytes} bytes of shared memory")
        if self.pixels > 64 and plan.grid < _FEW_BLOCKS * device.multiprocessors:
            return Refusal("so little work that smaller tiles are better")
        if self.pixels < 128 and plan.grid > _MANY_BLOCKS * device.multiprocessors:
            return Refusal("so much work that larger tiles are better")
        return None

    def _plan(self, spec: LayerSpec) -> PatchPlan:
        dtype = spec.inputs[1].dtype
        # Bytes of groups are multiplied as float16, which holds them and sums products exactly.
        is_wide = dtype is DType.INT8 and not self.interleaved
        type = c_type(DType.FLOAT16 if is_wide else dtype)
        return plan_patch(specs.shape_of(spec), type, self.pixels, self.interleaved)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Channels last; a stem reads row-major images as well."""
        last = Layout.CHANNELS_LAST
        images = (last, Layout.PLAIN) if self.interleaved else (last,)
        return [specs.layout_choice(spec, image, last) for image in images]

    def estimate_us(self, spec: LayerSpec) -> float:
        """Bytes or the tensor cores bound it, which multiply padding as well."""
        plan = self._plan(spec)
        shape = plan.shape
        made = plan.grid * self.pixels * plan.slab * plan.steps * 16
        useful = math.prod(spec.outputs[0].shape) * shape.taps * shape.group_in
        busy = estimates.multiplied_us(spec, estimates.TENSOR_MULTIPLIES, made / useful)
        return estimates.START_US + 1.3 * max(estimates.moved_us(spec), busy)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Compile; pack weights as warps load them."""
        plan = self._plan(spec)
        device = current_device()
        if plan.shared_bytes > device.shared_bytes:
            raise Unprepared(f"needs {plan.shared_bytes} bytes of shared memory")
        kernel = cpp_kernel(weights, patch.NAME, patch.patch_source(plan), plan.shared_bytes)
        weight = specs.packed_weight(
            spec, weights, f"patch {plan.type} {plan.shape.groups} {plan.slab} {plan.words}",
            lambda array: pack_patch_weight(plan, array),
        )
        launch = Launch(
            kernel, (plan.grid, 1, 1), (plan.threads, 1, 1),
            [In(0), Packed(weight), Out(), *extra_arguments(spec, weights)],
            shared_bytes=plan.shared_bytes, overlaps=True,
        )
        return KernelPrepared([launch])


class StemTactic(PatchTactic):
    """The first convolution of a network: few channels, a large window."""

    interleaved: ClassVar[bool] = True

    def bad_channels(self, spec: LayerSpec) -> Refusal | None:
        """Up to 8 channels in one group."""
        channels, filters = spec.inputs[0].shape[1], spec.outputs[0].shape[1]
        if specs.attributes(spec).groups != 1 or channels > _MAX_STEM_CHANNELS:
            return Refusal(f"more than one group, or than {_MAX_STEM_CHANNELS} channels")
        taps = spec.inputs[1].element_count // filters
        if taps > _MAX_STEM_TAPS:
            return Refusal(f"a window of {taps} elements; {_MAX_STEM_TAPS} are taken")
        return None


class GroupedTactic(PatchTactic):
    """Groups of 16 and more channels."""

    interleaved: ClassVar[bool] = False

    def bad_channels(self, spec: LayerSpec) -> Refusal | None:
        """Several groups of 16 to 128 channels, whole vectors of filters in each."""
        groups = specs.attributes(spec).groups
        channels, filters = spec.inputs[0].shape[1] // groups, spec.outputs[0].shape[1] // groups
        if groups == 1:
            return Refusal("one group")
        if not 16 <= channels <= 128:
            return Refusal(f"groups of {channels} channels; 16 to 128 are taken")
        if filters % 8:
            return Refusal(f"groups of {filters} filters; multiples of 8 are taken")
        return None
