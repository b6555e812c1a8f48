"""RoIAlign against torchvision's."""

import pytest
import torch

import torchvision_shim  # noqa: F401  # isort: skip  (before torchvision)
import torchvision
from plugin_cases import check_kernels, compile_kernels

from torch2rt.plugins.roi_align import roi_align

# Inside, across the border, far outside, smaller than a pixel, empty, turned around, everything.
ROIS = torch.tensor([
    [0, 4.0, 3.0, 20.0, 25.0], [1, -9.0, -9.0, 12.0, 5.0], [1, 90.0, 90.0, 99.0, 99.0],
    [0, 7.2, 7.3, 7.5, 7.4], [1, 5.0, 5.0, 5.0, 5.0], [0, 20.0, 20.0, 10.0, 4.0],
    [1, 0.0, 0.0, 47.0, 31.0], [0, 31.5, 40.25, 60.0, 70.0],
])
CASES = [
    (sampling, aligned, size)
    for sampling in (-1, 2) for aligned in (False, True) for size in ((7, 7), (3, 5))
]


@pytest.mark.parametrize(("sampling", "aligned", "size"), CASES)
def test_roi_align(sampling, aligned, size):
    x = torch.randn(2, 3, 16, 24)
    corners = torch.rand(40, 2, 2).mul(50).sort(1).values.flatten(1)
    rois = torch.cat([ROIS, torch.cat([torch.randint(0, 2, (40, 1)), corners], 1)])
    if aligned and sampling < 0:  # of a box that is turned around torchvision makes -9 samples
        rois = rois[rois[:, 3] >= rois[:, 1]]
    wanted = torchvision.ops.roi_align(x, rois, size, 0.5, sampling, aligned)
    found = roi_align(x, rois, 0.5, *size, sampling, aligned)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)


def test_no_boxes():
    assert roi_align(torch.zeros(1, 3, 4, 4), torch.zeros(0, 5), 1.0, 2, 2).shape == (0, 3, 2, 2)


@pytest.mark.parametrize(("sampling", "aligned", "size"), CASES)
def test_kernel(cuda_device, sampling, aligned, size):
    x = torch.randn(2, 3, 16, 24)
    check_kernels(roi_align, x, ROIS, 0.5, *size, sampling, aligned, tolerance=1e-4)


def test_kernel_compiles():
    compile_kernels(roi_align, torch.randn(2, 3, 16, 24), ROIS, 0.5, 7, 7)
