"""Samples of volumes as a plugin."""

from __future__ import annotations

import torch
from torch.nn import functional

import torch2rt
from torch2rt.plugin import Attributes, CudaKernel, Int64, Shapes, ceil_div, count
from torch2rt.plugins.grid_sample.kernel import MODES, NAME, PADDINGS, SOURCE, THREADS


def _points(shapes: Shapes, attributes: Attributes) -> object:
    return ceil_div(count(shapes.inputs[1][:4]), THREADS)


def _numbers(shapes: Shapes, attributes: Attributes) -> list[object]:
    points = shapes.inputs[1][:4]
    return [
        Int64(count(points)), count(points[1:]), *shapes.inputs[0][1:],
        MODES.index(attributes["mode"]), PADDINGS.index(attributes["padding_mode"]),
        attributes["align_corners"],
    ]


@torch2rt.plugin(
    "torch2rt_plugins::grid_sample_3d",
    cuda=CudaKernel(SOURCE, NAME, grid=_points, block=THREADS, numbers=_numbers),
)
def grid_sample_3d(
    input: torch.Tensor, grid: torch.Tensor, mode: str = "bilinear", padding_mode: str = "zeros",
    align_corners: bool = False,
) -> torch.Tensor:
    """`torch.nn.functional.grid_sample` of volumes.

    ``input``: [n, c, d, h, w]. ``grid``: [n, d', h', w', 3], points (x, y, z) in -1..1.
    ``mode``: "bilinear" (which is trilinear) or "nearest". ``padding_mode``: "zeros", "border" or
    "reflection". Returns [n, c, d', h', w']. Computed in float32 whatever the engine's precision:
    points need it.
    """
    if input.dim() != 5 or mode not in MODES or padding_mode not in PADDINGS:
        raise ValueError(
            f"grid_sample_3d takes 5-D tensors, modes {MODES} and paddings {PADDINGS}; given are "
            f"{input.dim()}-D, {mode!r} and {padding_mode!r}"
        )
    return functional.grid_sample(input, grid, mode, padding_mode, align_corners)
