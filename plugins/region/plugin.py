"""YOLOv2's region layer as a plugin."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

import torch2rt
from torch2rt.plugin import Attributes, CudaKernel, Shapes, ceil_div
from torch2rt.plugins.region.kernel import CELLS, LARGEST_ANCHORS, NAME, SOURCE, SPLIT


def _blocks(shapes: Shapes, attributes: Attributes) -> object:
    b, _, h, w = shapes.inputs[0]
    return ceil_div(h * w, CELLS), len(attributes["anchors"]) // 2, b


def _numbers(shapes: Shapes, attributes: Attributes) -> list[object]:
    _, _, h, w = shapes.inputs[0]
    anchors = [float(size) for size in attributes["anchors"]]
    padding = [0.0] * (2 * LARGEST_ANCHORS - len(anchors))
    return [h, w, attributes["classes"], int(attributes["softmax"]), *anchors, *padding]


@torch2rt.plugin(
    "torch2rt_plugins::region_decode",
    cuda=CudaKernel(SOURCE, NAME, grid=_blocks, block=(CELLS, SPLIT), numbers=_numbers),
)
def region_decode(
    x: torch.Tensor, anchors: Sequence[float], classes: int, softmax: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes and scores of every anchor at every cell.

    ``x``: [b, a*(5+classes), h, w], the channels of an anchor being tx, ty, tw, th, objectness and
    classes. ``anchors``: widths and heights in cells, w0, h0, w1, h1, ... At row j and column i

        centre = ((i + sigmoid(tx)) / w, (j + sigmoid(ty)) / h)
        size   = (exp(tw) * w_a / w, exp(th) * h_a / h)
        score  = sigmoid(objectness) * softmax(classes)      (sigmoid(classes) without softmax)

    Returns float32 boxes [b, a*h*w, 4] as x1, y1, x2, y2 in parts of the image, and scores
    [b, a*h*w, classes]; anchors first, then rows, then columns. Computed in float32 whatever the
    engine's precision. Source: "YOLO9000: Better, Faster, Stronger" (2017); Darknet's
    src/region_layer.c.
    """
    count = len(anchors) // 2
    if len(anchors) != 2 * count or not 1 <= count <= LARGEST_ANCHORS:
        raise ValueError(
            f"anchors are 1 to {LARGEST_ANCHORS} pairs of sizes, not {len(anchors)} numbers"
        )
    b, c, h, w = x.shape
    if c != count * (5 + classes):
        raise ValueError(f"{count} anchors of {classes} classes are not {c} channels")
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    fields = x.reshape(b, count, 5 + classes, h * w).permute(2, 0, 1, 3)
    cell = torch.arange(h * w, device=x.device)
    size = fields.new_tensor(anchors).reshape(count, 2)
    centre_x = ((cell % w) + fields[0].sigmoid()) / w
    centre_y = ((cell // w) + fields[1].sigmoid()) / h
    half_x = fields[2].exp() * size[:, 0, None] / (2 * w)
    half_y = fields[3].exp() * size[:, 1, None] / (2 * h)
    boxes = torch.stack(
        [centre_x - half_x, centre_y - half_y, centre_x + half_x, centre_y + half_y], -1
    )
    raw = fields[5:].permute(1, 2, 3, 0)
    scores = (raw.softmax(-1) if softmax else raw.sigmoid()) * fields[4].sigmoid()[..., None]
    return boxes.reshape(b, -1, 4), scores.reshape(b, -1, classes)


class RegionDecode(nn.Module):
    """`region_decode` with its anchors, as (width, height) in cells."""

    def __init__(
        self, anchors: Sequence[tuple[float, float]], classes: int, softmax: bool = True
    ) -> None:
        super().__init__()
        self.anchors = [float(size) for pair in anchors for size in pair]
        self.classes, self.softmax = classes, softmax

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[b, a*(5+classes), h, w] -> boxes [b, a*h*w, 4], scores [b, a*h*w, classes]."""
        boxes, scores = region_decode(x, self.anchors, self.classes, self.softmax)
        return boxes, scores
