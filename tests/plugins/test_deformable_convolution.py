"""Deformable convolution against torchvision's."""

from dataclasses import dataclass

import pytest
import torch

import torchvision_shim  # noqa: F401  # isort: skip  (before torchvision)
import torchvision
from plugin_cases import check_kernels, compile_kernels

from torch2rt.plugins.deformable_convolution import DeformableConvolution, deform_conv2d


@dataclass(frozen=True)
class Case:
    channels: int = 4
    filters: int = 6
    size: tuple[int, int] = (7, 9)
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    offset_groups: int = 1
    has_mask: bool = True

    def arguments(self):
        n = 2
        sizes = zip(
            self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True
        )
        oh, ow = ((s + 2 * p - d * (k - 1) - 1) // t + 1 for s, k, t, p, d in sizes)
        taps = self.kernel[0] * self.kernel[1] * self.offset_groups
        mask = torch.rand(n, taps, oh, ow) if self.has_mask else torch.zeros(n, 1)
        return (
            torch.randn(n, self.channels, *self.size),
            torch.randn(self.filters, self.channels // self.groups, *self.kernel),
            2 * torch.randn(n, 2 * taps, oh, ow), mask, torch.randn(self.filters),
            *self.stride, *self.padding, *self.dilation, self.groups, self.offset_groups,
            self.has_mask,
        )


CASES = {
    "v2": Case(),
    "v1": Case(has_mask=False),
    "groups": Case(groups=2, offset_groups=2),
    "more offset groups": Case(channels=6, groups=1, offset_groups=3),
    "uneven": Case(kernel=(1, 3), stride=(2, 1), padding=(0, 2), dilation=(1, 2)),
    "more than a tile": Case(channels=3, filters=70, size=(9, 10), groups=1),
}


@pytest.mark.parametrize("name", CASES)
def test_deform_conv2d(name):
    arguments = CASES[name].arguments()
    wanted = torch.ops.torchvision.deform_conv2d(*arguments)
    torch.testing.assert_close(deform_conv2d(*arguments), wanted, rtol=1e-4, atol=1e-4)


def test_module():
    theirs = torchvision.ops.DeformConv2d(4, 6, 3, padding=1)
    ours = DeformableConvolution(4, 6, 3, padding=1)
    ours.load_state_dict(theirs.state_dict())
    x, offset, mask = torch.randn(2, 4, 6, 5), torch.randn(2, 18, 6, 5), torch.rand(2, 9, 6, 5)
    torch.testing.assert_close(ours(x, offset), theirs(x, offset), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours(x, offset, mask), theirs(x, offset, mask), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_kernel(cuda_device, name):
    check_kernels(deform_conv2d, *CASES[name].arguments(), tolerance=1e-4)


def test_kernel_of_16_bits(cuda_device):
    arguments = [
        item.half() if isinstance(item, torch.Tensor) else item for item in Case().arguments()
    ]
    check_kernels(deform_conv2d, *arguments, tolerance=2e-2)


def test_kernel_compiles():
    compile_kernels(deform_conv2d, *Case().arguments())
