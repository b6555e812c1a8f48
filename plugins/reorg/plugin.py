"""Space to depth as a plugin, and written in torch."""

from __future__ import annotations

import torch
from torch import nn

import torch2rt
from torch2rt.plugin import Attributes, CudaKernel, Int64, Shapes, ceil_div, count
from torch2rt.plugins.reorg.kernel import NAME, SOURCE, THREADS

ORDERS = ("pixel_unshuffle", "blocks", "darknet")


def reorg_in_torch(x: torch.Tensor, stride: int, order: str = "darknet") -> torch.Tensor:
    """Space to depth by reshapes and a transposition: [b, c, h, w] -> [b, c*s*s, h/s, w/s].

    Darknet reads the image's memory as if it were [c/(s*s), h*s, w*s], takes that apart into blocks
    in the order "blocks", and calls the result [c*s*s, h/s, w/s]. It mixes pixels that are no
    neighbours; trained weights count on it. Source: src/blas.c, reorg_cpu.
    """
    b, c, h, w = x.shape
    if order == "darknet":
        x = x.reshape(b, c // stride**2, h, stride, w, stride)
        return x.permute(0, 3, 5, 1, 2, 4).reshape(b, c * stride**2, h // stride, w // stride)
    x = x.reshape(b, c, h // stride, stride, w // stride, stride)
    axes = (0, 3, 5, 1, 2, 4) if order == "blocks" else (0, 1, 3, 5, 2, 4)
    return x.permute(axes).reshape(b, c * stride**2, h // stride, w // stride)


def _blocks(shapes: Shapes, attributes: Attributes) -> object:
    return (ceil_div(count(shapes.outputs[0]), THREADS),)


def _numbers(shapes: Shapes, attributes: Attributes) -> list[object]:
    _, c, h, w = shapes.inputs[0]
    order = ORDERS.index(attributes["order"])
    return [Int64(count(shapes.outputs[0])), c, h, w, attributes["stride"], order]


@torch2rt.plugin(
    "torch2rt_plugins::reorg",
    cuda=CudaKernel(SOURCE, NAME, grid=_blocks, block=THREADS, numbers=_numbers),
    precisions=("fp32", "fp16", "bf16"),
)
def reorg(x: torch.Tensor, stride: int, order: str = "darknet") -> torch.Tensor:
    """Space to depth as one layer: [b, c, h, w] -> [b, c*s*s, h/s, w/s].

    ``stride`` divides h and w; in the order "darknet" its square divides c. ValueError otherwise.
    """
    _, c, h, w = x.shape
    if order not in ORDERS:
        raise ValueError(f"order {order!r} is not one of {', '.join(map(repr, ORDERS))}")
    if h % stride or w % stride or (order == "darknet" and c % stride**2):
        raise ValueError(f"a stride of {stride} does not divide {c} channels of {h} x {w}")
    return reorg_in_torch(x, stride, order)


class Reorg(nn.Module):
    """Space to depth in a model, of torch's own ops, so that layers around it may fuse with it."""

    def __init__(self, stride: int, order: str = "darknet") -> None:
        super().__init__()
        self.stride, self.order = stride, order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] -> [b, c*s*s, h/s, w/s]."""
        return reorg_in_torch(x, self.stride, self.order)
