"""Space to depth: against Darknet's loops, torch and ONNX's definition."""

import pytest
import torch
from darknet_cases import darknet_reorg
from plugin_cases import check_kernels, compile_kernels
from torch.nn import functional

from torch2rt.plugins.reorg import ORDERS, reorg, reorg_in_torch


@pytest.mark.parametrize(("shape", "stride"), [((8, 6, 4), 2), ((18, 3, 9), 3), ((4, 5, 7), 1)])
def test_darknets_order(shape, stride):
    x = torch.randn(2, *shape)
    for image, found in zip(x, reorg(x, stride), strict=True):
        assert (found.numpy() == darknet_reorg(image.numpy(), stride)).all()


def test_other_orders():
    x = torch.randn(2, 3, 4, 6)
    assert torch.equal(reorg(x, 2, "pixel_unshuffle"), functional.pixel_unshuffle(x, 2))
    blocks = torch.cat([x[:, :, i::2, j::2] for i in range(2) for j in range(2)], 1)
    assert torch.equal(reorg(x, 2, "blocks"), blocks)
    assert torch.equal(reorg_in_torch(x, 2, "blocks"), blocks)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_kernel(cuda_device, order, dtype):
    check_kernels(reorg, torch.randn(2, 8, 6, 10).to(dtype), 2, order, exact=True)


def test_kernel_of_an_odd_size(cuda_device):
    check_kernels(reorg, torch.randn(1, 18, 9, 3), 3, "darknet", exact=True)


def test_kernel_compiles():
    compile_kernels(reorg, torch.randn(1, 4, 2, 2), 2)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="order 'rows' is not one of 'pixel_unshuffle'"):
        reorg(torch.zeros(1, 4, 4, 4), 2, "rows")
    with pytest.raises(ValueError, match="a stride of 2 does not divide 4 channels of 3 x 4"):
        reorg(torch.zeros(1, 4, 3, 4), 2)
    with pytest.raises(ValueError, match="a stride of 2 does not divide 3 channels of 4 x 4"):
        reorg(torch.zeros(1, 3, 4, 4), 2)
