"""Samples of volumes: the kernel against torch."""

import pytest
import torch
from plugin_cases import check_kernels, compile_kernels

from torch2rt.plugins.grid_sample import grid_sample_3d

CASES = [
    (mode, padding, aligned)
    for mode in ("bilinear", "nearest")
    for padding in ("zeros", "border", "reflection")
    for aligned in (False, True)
]


@pytest.mark.parametrize(("mode", "padding", "aligned"), CASES)
def test_kernel(cuda_device, mode, padding, aligned):
    x, grid = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 3, 2, 5, 3) * 1.5
    grid[0, 0, 0, 0] = torch.tensor([-1.0, 1.0, 0.0])
    grid[0, 0, 0, 1] = torch.tensor([1e12, -1e12, 0.5])
    check_kernels(grid_sample_3d, x, grid, mode, padding, aligned, tolerance=2e-5)


def test_kernel_of_one_pixel(cuda_device):
    x, grid = torch.randn(1, 2, 1, 1, 1), torch.randn(1, 2, 2, 2, 3)
    check_kernels(grid_sample_3d, x, grid, "bilinear", "reflection", True, tolerance=2e-5)


def test_kernel_compiles():
    compile_kernels(grid_sample_3d, torch.randn(1, 2, 3, 3, 3), torch.randn(1, 2, 2, 2, 3))


def test_what_it_does_not_take():
    with pytest.raises(ValueError, match="given are 4-D, 'bilinear' and 'zeros'"):
        grid_sample_3d(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, 2))
    with pytest.raises(ValueError, match="'bicubic'"):
        grid_sample_3d(torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 2, 2, 2, 3), "bicubic")
