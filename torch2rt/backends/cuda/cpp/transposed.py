"""From the spec of a layer whose operands lie in different layouts to our transposing kernel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch2rt.backends.cuda.cpp.elementwise import (
    arguments_of,
    kernel_operand,
    largest_offset,
    printed,
)
from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.cuda.launch import KernelPrepared, Launch
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Unprepared, Weights
from torch2rt.kernels.cuda.pointwise_transpose import NAME, THREADS, TransposeKernel, item_bytes

_INDICES = 2**31
_TILE_ELEMENTS, _LEAST_TILE_ELEMENTS = 4096, 1024
_SHARED_BYTES = 40 * 1024
_SIDE = 64  # a tile is at least so wide along both axes if the tensor is


def prepare_transposed(spec: LayerSpec, weights: Weights) -> KernelPrepared:
    """One launch of the transposing kernel. Unprepared if nothing is to transpose."""
    kernel = transpose_kernel(spec, current_device().multiprocessors)
    loaded = cpp_kernel(weights, NAME, kernel.source)
    launch = Launch(
        loaded, kernel.grid, (THREADS, 1, 1), arguments_of(spec, weights), overlaps=True
    )
    return KernelPrepared([launch])


def transpose_kernel(spec: LayerSpec, multiprocessors: int) -> TransposeKernel:
    """The kernel of a spec whose layouts are chosen: some inputs in another than the output."""
    output = spec.outputs[0]
    tensors = (*spec.inputs, output)
    if max(map(largest_offset, tensors)) >= _INDICES:
        raise Unprepared("tensors of 2^31 elements and more")
    strides = [_image_strides(tensor, output) for tensor in tensors]
    sizes = (output.shape[0], output.shape[1], math.prod(output.shape[2:]))
    if strides[-1][2] == 1:  # the output is row-major: y is what it is contiguous along
        sizes = (sizes[0], sizes[2], sizes[1])
        strides = [(batch, pixel, channel) for batch, channel, pixel in strides]
    if strides[-1][1] != 1:
        raise Unprepared("the output is contiguous along no axis")
    is_tiled = tuple(own[2] == 1 and own[1] != 0 for own in strides[:-1])
    if not any(is_tiled):
        raise Unprepared("no operand lies in another layout than the output")
    inputs = tuple(map(kernel_operand, spec.inputs, strides))
    shared = sum(map(item_bytes, (x for x, tiled in zip(inputs, is_tiled, strict=True) if tiled)))
    return TransposeKernel(
        printed(spec), inputs, is_tiled, kernel_operand(output, strides[-1]), sizes,
        _tile(sizes, _SHARED_BYTES // shared, 2 * multiprocessors),
    )


def _image_strides(tensor: TensorSpec, output: TensorSpec) -> tuple[int, int, int]:
    """Strides along batch, channel and pixel of the output; 0 where the tensor broadcasts."""
    lead = output.rank - tensor.rank
    shape = (1,) * lead + tensor.shape
    own = [
        0 if size == 1 else stride
        for size, stride in zip(shape, (0,) * lead + tensor.strides, strict=True)
    ]
    pixel = 0
    if any(size > 1 for size in shape[2:]):
        pixel = _merged(output.shape[2:], own[2:])
    elif math.prod(output.shape[2:]) == 1:
        pixel = tensor.strides[-1] if lead == 0 else 0
    return own[0], own[1], pixel


def _merged(sizes: Sequence[int], strides: Sequence[int]) -> int:
    """The stride along several axes as one."""
    steps = [(size, stride) for size, stride in zip(sizes, strides, strict=True) if size > 1]
    for (_, outer), (size, inner) in itertools.pairwise(steps):
        if outer != size * inner:
            raise Unprepared("an operand broadcasts along some axes of the image only")
    return steps[-1][1]


def _tile(sizes: tuple[int, int, int], most: int, blocks: int) -> tuple[int, int, int]:
    """A tile (1, y, x) of powers of 2, small enough that there are so many blocks if possible."""
    elements = min(_TILE_ELEMENTS, 1 << (most.bit_length() - 1))
    batch, y, x = sizes
    while elements > _LEAST_TILE_ELEMENTS and batch * y * x < blocks * elements:
        elements //= 2
    side = min(_SIDE, 1 << (elements.bit_length() // 2))
    tile_y = min(_power_of_two(y), side)
    tile_x = min(_power_of_two(x), max(elements // tile_y, 1))
    tile_y = min(_power_of_two(y), max(elements // tile_x, 1))
    return 1, tile_y, tile_x


def _power_of_two(count: int) -> int:
    """The least one that is not less."""
    return 1 << (count - 1).bit_length()
