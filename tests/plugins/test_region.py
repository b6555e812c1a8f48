"""YOLOv2's region layer, against Darknet's loops in float64."""

import pytest
import torch
from darknet_cases import darknet_region
from plugin_cases import check_kernels, compile_kernels

from torch2rt.plugins.region import RegionDecode, region_decode

ANCHORS = [(1.5, 2.0), (0.5, 1.0), (3.0, 0.25)]
FLAT = [size for pair in ANCHORS for size in pair]


def test_region_of_darknet():
    x = 2 * torch.randn(2, 3 * 9, 4, 5)
    boxes, scores = RegionDecode(ANCHORS, 4)(x)
    assert boxes.shape == (2, 60, 4)
    assert scores.shape == (2, 60, 4)
    for image, box, score in zip(x, boxes, scores, strict=True):
        wanted_boxes, wanted_scores = darknet_region(image.numpy(), ANCHORS, 4)
        for found, wanted in ((box, wanted_boxes), (score, wanted_scores)):
            near = torch.from_numpy(wanted)
            torch.testing.assert_close(found.double(), near, rtol=1e-5, atol=1e-6)


def test_without_softmax_classes_are_independent():
    x = torch.randn(1, 7, 2, 2)
    _, scores = region_decode(x, [1.0, 1.0], 2, False)
    wanted = x[:, 5:].sigmoid() * x[:, 4:5].sigmoid()
    torch.testing.assert_close(scores, wanted.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize(("classes", "size"), [(80, (13, 13)), (3, (2, 5)), (1, (1, 1))])
def test_kernel(cuda_device, softmax, classes, size):
    x = 3 * torch.randn(2, 3 * (5 + classes), *size)
    check_kernels(region_decode, x, FLAT, classes, softmax)


def test_kernel_compiles():
    compile_kernels(region_decode, torch.randn(1, 27, 3, 4), FLAT, 4, True)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="2 anchors of 3 classes are not 15 channels"):
        region_decode(torch.zeros(1, 15, 2, 2), [1.0] * 4, 3)
    with pytest.raises(ValueError, match="1 to 16 pairs of sizes, not 3 numbers"):
        region_decode(torch.zeros(1, 15, 2, 2), [1.0] * 3, 3)
