"""Registration of torchvision's operators."""

from __future__ import annotations

import torch

import torch2rt
from torch2rt.plugin import CudaKernel
from torch2rt.plugin import unregister as unregister_plugin
from torch2rt.plugins.deformable_convolution.plugin import DEFORM_CONV2D
from torch2rt.plugins.roi_align.plugin import ROI_ALIGN

# By name: the kernel, and in which precisions it runs.
OPERATORS: dict[str, tuple[CudaKernel, tuple[str, ...]]] = {
    "roi_align": (ROI_ALIGN, ("fp32",)),
    "deform_conv2d": (DEFORM_CONV2D, ("fp32", "fp16", "bf16")),
}


def register() -> None:
    """Make torchvision's operators plugins; again does no harm.

    RuntimeError where torchvision is not imported, or its extension does not load.
    """
    for name, (kernel, precisions) in OPERATORS.items():
        try:
            operator = getattr(torch.ops.torchvision, name).default
        except AttributeError as error:
            raise RuntimeError(
                f"torchvision::{name} is not there: import torchvision first, of a build whose "
                "extension loads beside this torch"
            ) from error
        torch2rt.plugin(operator, cuda=kernel, precisions=precisions)


def unregister() -> None:
    """They are no plugins any more."""
    for name in OPERATORS:
        unregister_plugin(f"torchvision::{name}")
