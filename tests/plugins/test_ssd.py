"""SSD's layers, against what Caffe's layers compute, written out in loops."""

import math

import numpy as np
import pytest
import torch

import torchvision_shim  # noqa: F401  # isort: skip  (before torchvision)
import torchvision
from plugin_cases import check_kernels, compile_kernels

from torch2rt.plugins.ssd import DetectionOutput, PriorBox, detection_output, prior_box
from torch2rt.plugins.ssd.detection_output import CODES


def caffe_prior_box(h, w, high, wide, min_size, max_size, ratios, step, clip):
    """src/caffe/layers/prior_box_layer.cpp: Forward_cpu with one minimal size and flip."""
    top = []
    for j in range(h):
        for i in range(w):
            step_w, step_h = (step, step) if step else (wide / w, high / h)
            cx, cy = (i + 0.5) * step_w, (j + 0.5) * step_h
            sizes = [(min_size, min_size), (math.sqrt(min_size * max_size),) * 2]
            for ratio in ratios:
                for a in (ratio, 1 / ratio):
                    sizes.append((min_size * math.sqrt(a), min_size / math.sqrt(a)))
            for bw, bh in sizes:
                top += [(cx - bw / 2) / wide, (cy - bh / 2) / high,
                        (cx + bw / 2) / wide, (cy + bh / 2) / high]
    return np.clip(top, 0, 1) if clip else np.array(top)


@pytest.mark.parametrize(("step", "clip"), [(0.0, True), (8.0, False)])
def test_prior_box(step, clip):
    module = PriorBox([30.0], [60.0], [1.0, 2.0, 3.0], True, clip, step=step)
    found = module(torch.zeros(2, 8, 5, 4), torch.zeros(2, 3, 40, 36))
    wanted = caffe_prior_box(5, 4, 40, 36, 30, 60, [2, 3], step, clip)
    assert found.shape == (1, 2, 5 * 4 * 6 * 4)
    np.testing.assert_allclose(found[0, 0].numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert (found[0, 1].reshape(-1, 4) == torch.tensor([0.1, 0.1, 0.2, 0.2])).all()


def caffe_detections(offsets, scores, priors, background, iou, confidence, top_k, keep, corner):
    """src/caffe/layers/detection_output_layer.cpp, one image in float64: rows by score."""
    prior, variance = priors.double().reshape(2, -1, 4)
    t = offsets.double().reshape(-1, 4)
    if corner:
        boxes = prior + variance * t
    else:
        w, h = prior[:, 2] - prior[:, 0], prior[:, 3] - prior[:, 1]
        cx = variance[:, 0] * t[:, 0] * w + (prior[:, 0] + prior[:, 2]) / 2
        cy = variance[:, 1] * t[:, 1] * h + (prior[:, 1] + prior[:, 3]) / 2
        bw, bh = torch.exp(variance[:, 2] * t[:, 2]) * w, torch.exp(variance[:, 3] * t[:, 3]) * h
        boxes = torch.stack([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2], 1)
    rows = []
    by_class = scores.reshape(len(prior), -1)
    for category in range(by_class.shape[1]):
        if category == background:
            continue
        above = torch.nonzero(by_class[:, category] > confidence).flatten()
        order = above[by_class[above, category].argsort(descending=True, stable=True)]
        order = order if top_k < 0 else order[:top_k]
        for i in order[torchvision.ops.nms(boxes[order], by_class[order, category].double(), iou)]:
            rows.append([float(by_class[i, category]), category, *boxes[i].tolist()])
    return sorted(rows, key=lambda row: -row[0])[:keep]


def case(images=2, count=90, classes=4):
    corner = torch.rand(count, 2) * 0.8
    boxes = torch.cat([corner, corner + torch.rand(count, 2) * 0.3 + 0.01], 1).flatten()
    priors = torch.stack([boxes, torch.tensor([0.1, 0.1, 0.2, 0.2]).repeat(count)])[None]
    scores = torch.randn(images, count, classes).mul(2).softmax(2).flatten(1)
    return torch.randn(images, count * 4), scores, priors


@pytest.mark.parametrize("background", [0, -1])
@pytest.mark.parametrize("top_k", [-1, 20])
@pytest.mark.parametrize("code", CODES)
def test_detection_output(code, top_k, background):
    offsets, scores, priors = case()
    module = DetectionOutput(background, 0.4, 0.2, top_k, 60, code)
    detections, counts = module(offsets, scores, priors)
    assert detections.shape == (2, 60, 7)
    for image in range(2):
        wanted = caffe_detections(
            offsets[image], scores[image], priors, background, 0.4, 0.2, top_k, 60, code == "corner"
        )
        assert int(counts[image]) == len(wanted)
        assert (detections[image, : len(wanted), 0] == image).all()
        found = detections[image, : len(wanted), [2, 1, 3, 4, 5, 6]]
        torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-4, atol=1e-5)
        assert (detections[image, len(wanted) :, 0] == -1).all()
        assert (detections[image, len(wanted) :, 1:] == 0).all()


def test_offsets_that_hold_the_variances():
    offsets, scores, priors = case(1)
    scaled = (offsets.reshape(-1, 4) * torch.tensor([0.1, 0.1, 0.2, 0.2])).reshape(1, -1)
    plain = DetectionOutput()(offsets, scores, priors)
    encoded = DetectionOutput(variance_encoded_in_target=True)(scaled, scores, priors)
    torch.testing.assert_close(encoded, plain)


@pytest.mark.parametrize(("step", "clip"), [(0.0, True), (8.0, False)])
def test_prior_box_kernel(cuda_device, step, clip):
    sizes, variances = [30.0, 30.0, 42.0, 21.0, 10.0, 50.0], [0.1, 0.1, 0.2, 0.2]
    x, image = torch.zeros(1, 2, 5, 7), torch.zeros(1, 1, 40, 36)
    check_kernels(prior_box, x, image, sizes, variances, clip, step, tolerance=1e-5)


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("top_k", [-1, 20])
@pytest.mark.parametrize("code", CODES)
def test_detection_output_kernel(cuda_device, code, top_k, encoded):
    check_kernels(
        detection_output, *case(), 0, 0.4, 0.2, top_k, 61, code, encoded, tolerance=1e-4
    )


def test_kernels_compile():
    x, image = torch.zeros(1, 2, 5, 7), torch.zeros(1, 1, 9, 9)
    compile_kernels(prior_box, x, image, [3.0, 3.0], [1.0] * 4)
    compile_kernels(detection_output, *case(), 0, 0.4, 0.2, 20, 60)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="given are 3 and 2 numbers"):
        prior_box(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 9, 9), [1.0, 1.0], [1.0] * 3)
    with pytest.raises(ValueError, match="2 minimal sizes, 1 maximal sizes"):
        PriorBox([1, 2], [3])
    with pytest.raises(ValueError, match="code_type 'size' is not one of 'center_size', 'corner'"):
        DetectionOutput(code_type="size")(*case())
