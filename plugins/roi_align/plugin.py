"""RoIAlign as a plugin."""

from __future__ import annotations

import math

import torch

import torch2rt
from torch2rt.plugin import Attributes, CudaKernel, Int64, Shapes, ceil_div, count
from torch2rt.plugins.roi_align.kernel import NAME, SOURCE, THREADS


def _blocks(shapes: Shapes, attributes: Attributes) -> object:
    return ceil_div(count(shapes.outputs[0]), THREADS)


def _numbers(shapes: Shapes, attributes: Attributes) -> list[object]:
    return [
        Int64(count(shapes.outputs[0])), *shapes.inputs[0], attributes["pooled_height"],
        attributes["pooled_width"], attributes["spatial_scale"], attributes["sampling_ratio"],
        attributes["aligned"],
    ]


def _fake(
    input: torch.Tensor, rois: torch.Tensor, spatial_scale: float, pooled_height: int,
    pooled_width: int, sampling_ratio: int = -1, aligned: bool = False,
) -> torch.Tensor:
    return input.new_empty((rois.shape[0], input.shape[1], pooled_height, pooled_width))


ROI_ALIGN = CudaKernel(SOURCE, NAME, grid=_blocks, block=THREADS, numbers=_numbers)


@torch2rt.plugin("torch2rt_plugins::roi_align", cuda=ROI_ALIGN, fake=_fake)
def roi_align(
    input: torch.Tensor, rois: torch.Tensor, spatial_scale: float, pooled_height: int,
    pooled_width: int, sampling_ratio: int = -1, aligned: bool = False,
) -> torch.Tensor:
    """`torchvision.ops.roi_align`, with the parameters of its operator.

    ``input``: [n, c, h, w]. ``rois``: [k, 5], the image's number and x1, y1, x2, y2, which are
    multiplied by ``spatial_scale``. A box is cut into bins of equal size, and each is the mean of
    ``sampling_ratio``^2 bilinear samples (-1: as many as a bin has pixels, rounded up).
    ``aligned``: pixel centres lie at half numbers, and boxes may be smaller than a pixel.

    Returns [k, c, pooled_height, pooled_width]. Computed in float32 whatever the engine's
    precision: boxes need it. Source: "Mask R-CNN" (2017).
    """
    found = [
        _of_box(
            input, [float(number) for number in roi], spatial_scale,
            (pooled_height, pooled_width), sampling_ratio, aligned,
        )
        for roi in rois.detach().cpu().double()
    ]
    return torch.stack(found) if found else _fake(
        input, rois, spatial_scale, pooled_height, pooled_width
    )


def _of_box(
    x: torch.Tensor, roi: list[float], scale: float, bins: tuple[int, int], sampling: int,
    aligned: bool,
) -> torch.Tensor:
    """The mean over samples is a product of matrices: [c, ph, pw] = rows @ x[image] @ columns."""
    offset = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (number * scale - offset for number in roi[1:])
    image = x[int(roi[0])]
    weights, spans = [], []
    for low, high, count_, size in (
        (y1, y2, bins[0], x.shape[2]), (x1, x2, bins[1], x.shape[3]),
    ):
        length = high - low if aligned else max(high - low, 1.0)
        matrix = _interpolation(low, length / count_, count_, size, sampling)
        used = torch.nonzero(matrix.any(0)).flatten()
        span = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
        weights.append(matrix[:, span].to(image))
        spans.append(span)
    return weights[0] @ image[:, spans[0], spans[1]] @ weights[1].T


def _interpolation(
    low: float, bin_size: float, bins: int, size: int, sampling: int
) -> torch.Tensor:
    """float64 [bins, size]: what each pixel along an axis counts in each bin."""
    per_bin = sampling if sampling > 0 else max(math.ceil(bin_size), 0)
    step = torch.arange(bins * per_bin, dtype=torch.float64)
    bin_of = step.long() // max(per_bin, 1)
    at = low + bin_of * bin_size + (step % max(per_bin, 1) + 0.5) * bin_size / max(per_bin, 1)
    share = ((at >= -1) & (at <= size)).double() / max(per_bin, 1)
    at = at.clamp(0, size - 1)
    first = at.floor().long()
    part = at - first
    matrix = torch.zeros(bins, size, dtype=torch.float64)
    matrix.index_put_((bin_of, first), share * (1 - part), accumulate=True)
    matrix.index_put_(
        (bin_of, (first + 1).clamp(max=size - 1)), share * part, accumulate=True
    )
    return matrix
