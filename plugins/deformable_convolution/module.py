"""Deformable convolution as a module: `torchvision.ops.DeformConv2d` without torchvision."""

from __future__ import annotations

import torch
from torch import nn

from torch2rt.plugins.deformable_convolution.plugin import deform_conv2d


class DeformableConvolution(nn.Module):
    """`deform_conv2d` with weights; ``weight`` and ``bias`` are named as torchvision's."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1,
        padding: int = 0, dilation: int = 1, groups: int = 1, bias: bool = True,
    ) -> None:
        super().__init__()
        like = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        )
        self.weight, self.bias = like.weight, like.bias
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def forward(
        self, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[n, c, h, w], offsets [n, 2*o*k*k, h', w'], mask [n, o*k*k, h', w'] -> [n, k, h', w']."""
        taps = self.weight.shape[2] * self.weight.shape[3]
        bias = self.bias if self.bias is not None else x.new_zeros(self.weight.shape[0])
        found: torch.Tensor = deform_conv2d(
            x, self.weight, offset, mask if mask is not None else x.new_zeros(1), bias,
            self.stride, self.stride, self.padding, self.padding, self.dilation, self.dilation,
            self.groups, offset.shape[1] // (2 * taps), mask is not None,
        )
        return found
