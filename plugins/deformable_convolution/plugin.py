"""Deformable convolution as a plugin."""

from __future__ import annotations

import torch

import torch2rt
from torch2rt.plugin import Attributes, CudaKernel, Shapes, ceil_div
from torch2rt.plugins.deformable_convolution.kernel import NAME, SOURCE, THREADS, TILE

_WINDOW = (
    "stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w",
)


def _tiles(shapes: Shapes, attributes: Attributes) -> object:
    n, filters, oh, ow = shapes.outputs[0]
    groups = attributes["groups"]
    return ceil_div(oh * ow, TILE), groups * ceil_div(filters // groups, TILE), n


def _numbers(shapes: Shapes, attributes: Attributes) -> list[object]:
    _, c, h, w = shapes.inputs[0]
    return [
        c, h, w, *shapes.outputs[0][1:], attributes["groups"], attributes["offset_groups"],
        attributes["use_mask"], *shapes.inputs[1][2:], *(attributes[name] for name in _WINDOW),
    ]


DEFORM_CONV2D = CudaKernel(SOURCE, NAME, grid=_tiles, block=THREADS, numbers=_numbers)


@torch2rt.plugin(
    "torch2rt_plugins::deform_conv2d", cuda=DEFORM_CONV2D, precisions=("fp32", "fp16", "bf16")
)
def deform_conv2d(
    input: torch.Tensor, weight: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor,
    bias: torch.Tensor, stride_h: int, stride_w: int, pad_h: int, pad_w: int, dilation_h: int,
    dilation_w: int, groups: int, offset_groups: int, use_mask: bool,
) -> torch.Tensor:
    """Deformable convolution, with the parameters of torchvision's operator of this name.

    ``input``: [n, c, h, w]. ``weight``: [k, c/groups, kh, kw]. ``offset``: [n, 2*o*kh*kw, h', w'],
    for each of o groups of channels and each pixel of the window what is added to its row and to
    its column. ``mask``: [n, o*kh*kw, h', w'], what the pixel counts (any tensor without
    ``use_mask``). ``bias``: [k]. Pixels between others are interpolated, those outside are zero.

    Returns [n, k, h', w']. Source: "Deformable ConvNets v2" (2018).
    """
    n, c, h, w = input.shape
    filters, _, kh, kw = weight.shape
    oh, ow = offset.shape[2:]
    taps = kh * kw
    tap = torch.arange(taps, device=input.device)
    row = torch.arange(oh, device=input.device)[:, None] * stride_h - pad_h
    column = torch.arange(ow, device=input.device) * stride_w - pad_w
    shift = offset.reshape(n, offset_groups, taps, 2, oh, ow)
    y = shift[:, :, :, 0] + (row + (tap // kw * dilation_h)[:, None, None])
    x = shift[:, :, :, 1] + (column + (tap % kw * dilation_w)[:, None, None])
    planes = input.reshape(n, offset_groups, c // offset_groups, h * w)
    samples = _sample(planes, y.flatten(2), x.flatten(2), h, w)
    samples = samples.reshape(n, offset_groups, c // offset_groups, taps, oh * ow)
    if use_mask:
        samples = samples * mask.reshape(n, offset_groups, 1, taps, oh * ow)
    columns = samples.reshape(n, groups, c // groups * taps, oh * ow)
    found = weight.reshape(groups, filters // groups, -1) @ columns
    return found.reshape(n, filters, oh, ow) + bias[:, None, None]


def _sample(
    planes: torch.Tensor, y: torch.Tensor, x: torch.Tensor, h: int, w: int
) -> torch.Tensor:
    """[n, o, c, h*w] at points [n, o, p] -> [n, o, c, p], bilinear, zero outside."""
    top, left = y.floor(), x.floor()
    result = torch.zeros((), dtype=planes.dtype, device=planes.device)
    for down in (0, 1):
        for right in (0, 1):
            row, column = top + down, left + right
            share = (1 - (y - row).abs()) * (1 - (x - column).abs())
            exists = (row >= 0) & (row < h) & (column >= 0) & (column < w)
            index = row.clamp(0, h - 1).long() * w + column.clamp(0, w - 1).long()
            index = index[:, :, None].expand(-1, -1, planes.shape[2], -1)
            result = result + planes.gather(3, index) * (share * exists)[:, :, None]
    return result
