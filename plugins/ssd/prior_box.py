"""SSD's PriorBox as a plugin."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

import torch2rt
from torch2rt.plugin import Attributes, CudaKernel, Shapes, ceil_div
from torch2rt.plugins.ssd.kernels import (
    LARGEST_PRIORS,
    PRIOR_BOX_NAME,
    PRIOR_BOX_SOURCE,
    PRIOR_BOX_THREADS,
)


def prior_sizes(
    min_sizes: Sequence[float], max_sizes: Sequence[float], aspect_ratios: Sequence[float],
    flip: bool,
) -> list[tuple[float, float]]:
    """Width and height of the priors at every place, in pixels.

    For each minimal size s: s x s; sqrt(s*max) x sqrt(s*max), if there is a maximal size; and
    s*sqrt(a) x s/sqrt(a) for every aspect ratio a but 1, with ``flip`` also for 1/a.
    """
    ratios: list[float] = []
    for ratio in aspect_ratios:
        for item in (ratio, 1 / ratio) if flip else (ratio,):
            if all(abs(item - other) > 1e-6 for other in (1.0, *ratios)):
                ratios.append(item)
    sizes = []
    for index, size in enumerate(min_sizes):
        sizes.append((size, size))
        if max_sizes:
            side = math.sqrt(size * max_sizes[index])
            sizes.append((side, side))
        sizes += [(size * math.sqrt(ratio), size / math.sqrt(ratio)) for ratio in ratios]
    return sizes


def _blocks(shapes: Shapes, attributes: Attributes) -> object:
    _, _, h, w = shapes.inputs[0]
    return ceil_div(h * w * (len(attributes["sizes"]) // 2), PRIOR_BOX_THREADS)


def _numbers(shapes: Shapes, attributes: Attributes) -> list[object]:
    sizes = [float(size) for size in attributes["sizes"]]
    padding = [0.0] * (2 * LARGEST_PRIORS - len(sizes))
    return [
        *shapes.inputs[0][2:], *shapes.inputs[1][2:], len(sizes) // 2, attributes["clip"],
        attributes["step"], attributes["offset"], *map(float, attributes["variances"]), *sizes,
        *padding,
    ]


def _fake(
    features: torch.Tensor, image: torch.Tensor, sizes: Sequence[float],
    variances: Sequence[float], clip: bool = False, step: float = 0.0, offset: float = 0.5,
) -> torch.Tensor:
    h, w = features.shape[2:]
    return features.new_empty((1, 2, h * w * (len(sizes) // 2) * 4), dtype=torch.float32)


@torch2rt.plugin(
    "torch2rt_plugins::prior_box",
    cuda=CudaKernel(
        PRIOR_BOX_SOURCE, PRIOR_BOX_NAME, grid=_blocks, block=PRIOR_BOX_THREADS, numbers=_numbers
    ),
    fake=_fake,
)
def prior_box(
    features: torch.Tensor, image: torch.Tensor, sizes: Sequence[float],
    variances: Sequence[float], clip: bool = False, step: float = 0.0, offset: float = 0.5,
) -> torch.Tensor:
    """Prior boxes around the centre of every place of a feature map.

    ``features``: [n, c, h, w] and ``image``: [n, c', height, width], of which only shapes count.
    ``sizes``: widths and heights of the priors in pixels, see `prior_sizes`. ``variances``: four
    numbers. ``step``: pixels between places; 0: image / features. The centre of column i is at
    (i + ``offset``) * step. ``clip``: to the image.

    Returns float32 [1, 2, h*w*p*4]: x1, y1, x2, y2 in parts of the image, by row, column and prior,
    then the variances, once per prior. Source: "SSD: Single Shot MultiBox Detector" (2015), Caffe's
    PriorBox layer.
    """
    if len(variances) != 4 or len(sizes) % 2 or not 1 <= len(sizes) // 2 <= LARGEST_PRIORS:
        raise ValueError(
            f"prior_box takes 4 variances and 1 to {LARGEST_PRIORS} pairs of sizes, given are "
            f"{len(variances)} and {len(sizes)} numbers"
        )
    (h, w), (high, wide) = features.shape[2:], image.shape[2:]
    step_y, step_x = (step, step) if step else (high / h, wide / w)
    y = (torch.arange(h, dtype=torch.float32) + offset) * step_y
    x = (torch.arange(w, dtype=torch.float32) + offset) * step_x
    half = torch.tensor(sizes, dtype=torch.float32).reshape(-1, 2) / 2
    centre = torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1)[:, :, None]
    scale = torch.tensor([wide, high], dtype=torch.float32)
    boxes = torch.cat([(centre - half) / scale, (centre + half) / scale], -1)
    if clip:
        boxes = boxes.clamp(0, 1)
    priors = boxes.reshape(1, -1, 4)
    spread = torch.tensor(variances, dtype=torch.float32).expand_as(priors)
    return torch.stack([priors, spread], 1).reshape(1, 2, -1).to(features.device)


class PriorBox(nn.Module):
    """`prior_box` with its configuration, as Caffe's layer has it."""

    def __init__(
        self, min_sizes: Sequence[float], max_sizes: Sequence[float] = (),
        aspect_ratios: Sequence[float] = (), flip: bool = True, clip: bool = False,
        variances: Sequence[float] = (0.1, 0.1, 0.2, 0.2), step: float = 0.0, offset: float = 0.5,
    ) -> None:
        super().__init__()
        if max_sizes and len(max_sizes) != len(min_sizes):
            raise ValueError(f"{len(min_sizes)} minimal sizes, {len(max_sizes)} maximal sizes")
        pairs = prior_sizes(min_sizes, max_sizes, aspect_ratios, flip)
        self.sizes = [float(number) for pair in pairs for number in pair]
        self.variances, self.clip = [float(number) for number in variances], clip
        self.step, self.offset = float(step), float(offset)

    def forward(self, features: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """[n, c, h, w] and [n, c', height, width] -> [1, 2, h*w*p*4]."""
        priors: torch.Tensor = prior_box(
            features, image, self.sizes, self.variances, self.clip, self.step, self.offset
        )
        return priors
