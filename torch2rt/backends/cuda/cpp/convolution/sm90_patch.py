"""Convolutions of few filters on Hopper's tensor cores, from patches in shared memory."""

from __future__ import annotations

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
from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.kernels.cuda.sm90_patch import NAME, sm90_patch_source
from torch2rt.kernels.cuda.sm90_patch_plan import (
    CELL_BYTES,
    MAX_FILTERS,
    STEM_CHANNELS,
    STEP_CELLS,
    THREADS,
    Sm90PatchPlan,
    pack_sm90_weight,
    plan_sm90_patch,
)
from torch2rt.network.dtype import DType

_DTYPES = (DType.FLOAT16, DType.BFLOAT16, DType.INT8)
_MAX_PIXEL_BYTES = 256
# What is kept of a multiprocessor's shared memory per block, beside the block's own.
_RESERVED_BYTES = 1024


class Sm90PatchTactic(Tactic):
    """Patches of a size with which ``blocks`` fit a multiprocessor."""

    kinds: ClassVar[tuple[str, ...]] = ("convolution",)
    blocks: ClassVar[int]

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """All but the weights go by strides, as far as they keep cells aligned."""
        return spec.inputs[1].is_dense and _misaligned(spec) is None

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """See the limits of the kernel."""
        if current_device().capability != (9, 0):
            return Refusal("wgmma needs sm_90")
        return specs.refusal(spec, takes_bytes=True) or _bad_window(spec) or self._bad_size(spec)

    def _bad_size(self, spec: LayerSpec) -> Refusal | None:
        chosen = spec.with_layouts(self.layouts(spec)[0])
        return _misaligned(chosen) or (
            Refusal("no patch that fits shared memory") if self._plan(chosen) is None else None
        )

    def _plan(self, spec: LayerSpec) -> Sm90PatchPlan | None:
        device = current_device()
        room = (device.shared_bytes + _RESERVED_BYTES) // self.blocks - _RESERVED_BYTES
        return plan_sm90_patch(
            specs.shape_of(spec), c_type(spec.inputs[1].dtype), room, self.blocks,
            device.multiprocessors,
        )

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Channels last; a stem reads row-major images as well."""
        last = Layout.CHANNELS_LAST
        images = (last, Layout.PLAIN) if _is_stem(spec) else (last,)
        return [specs.layout_choice(spec, image, last) for image in images]

    def estimate_us(self, spec: LayerSpec) -> float | None:
        """Bytes or the tensor cores bound it."""
        plan = self._plan(spec)
        if plan is None:
            return None
        rows = math.prod(plan.tiles) * plan.copies * plan.products * 64
        made = rows * plan.filters * len(plan.step_offsets) * STEP_CELLS * CELL_BYTES
        useful = math.prod(spec.outputs[0].shape) * plan.shape.taps * plan.shape.in_channels
        rate = 2 * estimates.TENSOR_MULTIPLIES
        busy = estimates.multiplied_us(spec, rate, made / plan.item_bytes / useful)
        return estimates.START_US + 1.3 * max(estimates.moved_us(spec), busy)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Compile; pack weights as the tensor cores read them."""
        refusal = _misaligned(spec)
        if refusal is not None:
            raise Unprepared(refusal.reason)
        plan = self._plan(spec)
        if plan is None:
            raise Unprepared("no patch that fits shared memory")
        kernel = cpp_kernel(weights, NAME, sm90_patch_source(plan), plan.shared_bytes)
        weight = specs.packed_weight(
            spec, weights, f"cells {plan.type} {plan.lead} {plan.is_stem}",
            lambda array: pack_sm90_weight(plan, array),
        )
        blocks = min(math.prod(plan.tiles), self.blocks * current_device().multiprocessors)
        launch = Launch(
            kernel, (blocks, 1, 1), (THREADS, 1, 1),
            [In(0), Packed(weight), Out(), *extra_arguments(spec, weights)],
            shared_bytes=plan.shared_bytes, overlaps=True,
        )
        return KernelPrepared([launch])


def _is_stem(spec: LayerSpec) -> bool:
    most: int = STEM_CHANNELS
    return spec.inputs[0].shape[1] <= most


def _bad_window(spec: LayerSpec) -> Refusal | None:
    """Why dtypes, channels or the window are not for the kernel."""
    x, weight = spec.inputs[:2]
    kind = specs.attributes(spec)
    if x.dtype is not weight.dtype or x.dtype not in _DTYPES or spec.constants[1] is None:
        return Refusal("not constant weights of the image's type, of 16 or 8 bits")
    if x.rank != 4 or kind.groups != 1:
        return Refusal("several groups, or other than two axes")
    if spec.outputs[0].shape[1] > MAX_FILTERS:
        return Refusal(f"more than {MAX_FILTERS} filters")
    if max(weight.shape[2:]) == 1:
        return Refusal("a window of one pixel")
    if _is_stem(spec):
        if x.dtype is not DType.INT8 or x.shape[3] % 4:
            return Refusal("a stem of other than bytes, or rows that are not in fours")
        if kind.stride[1] not in (2, 4) or max(kind.dilation) > 1:
            return Refusal("a stem with dilation, or a stride other than 2 and 4")
        return None
    pixel = x.shape[1] * x.dtype.itemsize_bytes
    if pixel % (STEP_CELLS * CELL_BYTES) or pixel > _MAX_PIXEL_BYTES:
        return Refusal(f"pixels of {pixel} bytes")
    return Refusal("a stride") if max(kind.stride) > 1 else None


def _misaligned(spec: LayerSpec) -> Refusal | None:
    """Why the copies of an image whose layout is chosen would not be aligned."""
    strides = specs.shape_of(spec).x.strides
    item = spec.inputs[0].dtype.itemsize_bytes
    if not _is_stem(spec):
        is_aligned = strides[1] == 1 and not any(
            strides[axis] * item % CELL_BYTES for axis in (0, 3, 4)
        )
        return None if is_aligned else Refusal("pixels that are not at multiples of 16 bytes")
    channels = spec.inputs[0].shape[1]
    steps: tuple[int, ...] = (strides[0], strides[3])
    if spec.inputs[0].layout is Layout.PLAIN:
        is_dense, steps = strides[4] == 1, (*steps, strides[1])
    else:
        is_dense = strides[4] == channels in (1, 3, 4)
    if not is_dense or any(step % 4 for step in steps):
        return Refusal("rows of pixels that are not whole words")
    return None
