"""Depthwise convolutions: one kernel, cut into pieces of several sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from torch2rt.backends.cuda.cpp.convolution import estimates, specs
from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.cpp.walks import extra_arguments
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.cuda.launch import In, KernelPrepared, Launch, Out, Packed
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights
from torch2rt.kernels.cuda import depthwise_convolution as depthwise
from torch2rt.network.dtype import Array

# Multiply-adds of a thread that are unrolled; beyond, compiling takes long and registers spill.
_MAX_WORK = 2500
# Threads per multiprocessor below which a smaller piece is the better one, above which a larger.
_FEW_THREADS, _MANY_THREADS = 64, 8192


class DepthwiseTactic(Tactic):
    """A thread makes ``tile`` (rows, columns) pixels of up to ``vector`` channels."""

    kinds: ClassVar[tuple[str, ...]] = ("convolution",)
    tile: ClassVar[tuple[int, int]]
    vector: ClassVar[int]
    threads: ClassVar[int] = 128

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """All but the weights go by strides."""
        return spec.inputs[1].is_dense

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """One filter per channel over one or two axes, constant weights, enough work."""
        refusal = specs.refusal(spec, takes_bytes=True)
        if refusal is not None:
            return refusal
        channels, kind = spec.inputs[0].shape[1], specs.attributes(spec)
        if kind.groups != channels or spec.outputs[0].shape[1] != channels or channels == 1:
            return Refusal("not one filter for each of several channels")
        if spec.inputs[0].rank > 4:
            return Refusal("three spatial axes")
        if spec.constants[1] is None:
            return Refusal("weights that are not constant")
        return self._bad_size(spec)

    def _bad_size(self, spec: LayerSpec) -> Refusal | None:
        """Why another size of piece serves this layer better."""
        result = spec.outputs[0].shape
        vector = min(self.vector, math.gcd(result[1], 8))
        rows, columns = (1, *result[2:])[-2:]
        tile = depthwise.clipped(self.tile, (rows, columns))
        pixels = math.prod(tile)
        if pixels == 1:
            threads = math.prod(result) // vector
            if threads > current_device().multiprocessors * _MANY_THREADS:
                return Refusal("so much work that larger pieces are better")
            return None
        if math.prod(spec.inputs[1].shape[2:]) * pixels * vector > _MAX_WORK:
            return Refusal("a window so large that smaller pieces are better")
        pieces = -(-rows // tile[0]) * -(-columns // tile[1])
        if pieces * pixels > 1.5 * rows * columns:
            return Refusal("pieces that reach far beyond the image")
        threads = result[0] * pieces * result[1] // vector
        if threads < current_device().multiprocessors * _FEW_THREADS:
            return Refusal("so little work that smaller pieces are better")
        return None

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Channels last."""
        return (specs.layout_choice(spec, Layout.CHANNELS_LAST, Layout.CHANNELS_LAST),)

    def estimate_us(self, spec: LayerSpec) -> float:
        """Bytes bound it, multiply-adds where windows are large."""
        busy = estimates.multiplied_us(spec, estimates.MULTIPLIES)
        return estimates.START_US + 1.2 * max(estimates.moved_us(spec), busy)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Compile; weights as floats, channels innermost."""
        shape = specs.shape_of(spec)
        tiles = depthwise.choose_tiles(shape, self.tile, self.vector, self.threads)
        source = depthwise.depthwise_source(shape, tiles)
        launch = Launch(
            cpp_kernel(weights, depthwise.NAME, source),
            (tiles.grid(shape), 1, 1), (tiles.threads, 1, 1),
            [
                In(0), Packed(specs.packed_weight(spec, weights, "depthwise", _pack)), Out(),
                *extra_arguments(spec, weights),
            ],
            overlaps=True,
        )
        return KernelPrepared([launch])


def _pack(array: Array) -> Array:
    """[k, 1, *kernel] as [*kernel, k]."""
    return np.moveaxis(array[:, 0], 0, -1)
