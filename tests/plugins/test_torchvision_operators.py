"""Models that call torchvision's operators run the shipped kernels."""

import pytest
import torch

import torchvision_shim  # noqa: F401  # isort: skip  (before torchvision)
import torchvision
from plugin_cases import check_kernels

from torch2rt.plugins import torchvision_operators
from torch2rt.plugins.torchvision_operators import operators


@pytest.fixture
def registered():
    torchvision_operators.register()
    yield
    torchvision_operators.unregister()


def test_roi_align(cuda_device, registered):
    def model(x, boxes):
        return torchvision.ops.roi_align(x, [boxes], (3, 5), 0.5, 2, True)

    check_kernels(model, torch.randn(1, 3, 8, 9), torch.rand(4, 4) * 16, tolerance=1e-4)


def test_deform_conv2d(cuda_device, registered):
    def model(x, offset, weight):
        return torchvision.ops.deform_conv2d(x, offset, weight, padding=1)

    tensors = torch.randn(2, 4, 6, 5), torch.randn(2, 18, 6, 5), torch.randn(6, 4, 3, 3)
    check_kernels(model, *tensors, tolerance=1e-4)


def test_where_there_is_no_torchvision(monkeypatch):
    only = {"no_such_operator": operators.OPERATORS["roi_align"]}
    monkeypatch.setattr(operators, "OPERATORS", only)
    with pytest.raises(RuntimeError, match="torchvision::no_such_operator is not there: import"):
        torchvision_operators.register()
