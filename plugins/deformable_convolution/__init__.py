"""Convolution that reads its pixels beside their places, v1 and v2 ("Deformable ConvNets v2")."""

from torch2rt.plugins.deformable_convolution.module import DeformableConvolution
from torch2rt.plugins.deformable_convolution.plugin import deform_conv2d

__all__ = ["DeformableConvolution", "deform_conv2d"]
