"""Suppression: exactly torchvision's, on random and on adversarial boxes."""

import numpy as np
import pytest
import torch

import torchvision_shim  # isort: skip  (before torchvision)
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from plugin_cases import check_kernels, compile_kernels

from torch2rt.plugins.nms import batched_nms, multiclass_nms, nms

BIG = 100_000


def random_boxes(count: int, extent: float = 100.0, size: float = 30.0) -> torch.Tensor:
    corner = torch.rand(count, 2) * extent
    return torch.cat([corner, corner + torch.rand(count, 2) * size], 1)


def on_a_grid(count: int) -> torch.Tensor:
    """Integer corners: many overlaps are exactly 1/2, 1/3, ..."""
    corner = torch.randint(0, 6, (count, 2))
    return torch.cat([corner, corner + torch.randint(0, 5, (count, 2))], 1).float()


BOXES = {
    "random": lambda n: (random_boxes(n), torch.rand(n)),
    "dense": lambda n: (random_boxes(n, 10.0), torch.rand(n)),
    "grid, tied scores": lambda n: (on_a_grid(n), torch.randint(0, 3, (n,)).float()),
    "identical": lambda n: (random_boxes(1).expand(n, 4).contiguous(), torch.rand(n)),
    "all of one score": lambda n: (random_boxes(n), torch.full((n,), 0.5)),
    "empty and turned around": lambda n: (random_boxes(n)[:, [2, 1, 0, 3]], torch.randn(n)),
    "points": lambda n: (random_boxes(n)[:, [0, 1, 0, 1]], torch.rand(n)),
    "negative corners": lambda n: (random_boxes(n) - 60, torch.randn(n)),
    "signed zeros": lambda n: (on_a_grid(n), torch.zeros(n) * torch.randn(n).sign()),
    "a staircase": lambda n: (
        torch.stack([torch.arange(n), torch.zeros(n), torch.arange(n) + 3, torch.ones(n)], 1),
        torch.linspace(1, 0, n),
    ),
}


def padded(kept: torch.Tensor, size: int) -> torch.Tensor:
    result = torch.full((size,), -1)
    result[: len(kept)] = kept[:size]
    return result


def test_the_oracle_is_torchvisions_own():
    assert torchvision_shim.HAS_OPERATORS


@pytest.mark.parametrize("threshold", [0.5, 0.3, 1 / 3, 0.0, 0.7])
@pytest.mark.parametrize("name", BOXES)
def test_nms(name, threshold):
    for count in (1, 37, 700):
        boxes, scores = BOXES[name](count)
        wanted = torchvision.ops.nms(boxes, scores, threshold)
        for size in (count, 20):
            kept, counts = nms(boxes[None], scores[None], threshold, size)
            assert torch.equal(kept[0], padded(wanted, size))
            assert counts.tolist() == [min(size, len(wanted))]


@pytest.mark.parametrize("count", [300, 1500])
@pytest.mark.parametrize("name", BOXES)
def test_batched_nms(name, count):
    boxes, scores = BOXES[name](count)
    if name == "negative corners" and count < 1000:
        boxes = boxes + 30  # some boxes then reach into the place of the category before
    categories = torch.randint(0, 7, (count,))
    wanted = torchvision.ops.batched_nms(boxes, scores, categories, 0.5)
    kept, counts = batched_nms(boxes[None], scores[None], categories[None], 0.5, count)
    if count > 1000:  # torchvision sorts the classes' results again, equal scores in any order
        assert torch.equal(kept[0, : len(wanted)].sort().values, wanted.sort().values)
        wanted = wanted[torch.argsort(wanted)]
        wanted = wanted[torch.argsort(-scores[wanted], stable=True)]
    assert torch.equal(kept[0], padded(wanted, count))
    assert counts.tolist() == [len(wanted)]


def test_many_boxes_are_sorted_a_pool_at_a_time():
    boxes, scores = random_boxes(9000, 20.0), torch.rand(9000)
    wanted = torchvision.ops.nms(boxes, scores, 0.3)
    kept, _ = nms(boxes[None], scores[None], 0.3, 500)
    assert torch.equal(kept[0], padded(wanted, 500))


def test_classes_images_and_thresholds():
    boxes = torch.stack([random_boxes(60), random_boxes(60)])
    scores = torch.rand(2, 60, 5)
    kept, counts = multiclass_nms(boxes, scores, 0.4, 50, 0.6)
    for image in range(2):
        box, category = torch.nonzero(scores[image] > 0.6, as_tuple=True)
        values = scores[image, box, category]
        wanted = torchvision.ops.batched_nms(boxes[image, box], values, category, 0.4)
        assert torch.equal(kept[image], padded((box * 5 + category)[wanted], 50))
        assert counts[image] == min(len(wanted), 50)


def test_only_the_best_of_each_class_take_part():
    boxes, scores = random_boxes(400), torch.rand(400, 3)
    kept, counts = multiclass_nms(boxes[None], scores[None], 0.2, 400, 0.1, 150)
    rows = []
    for category in range(3):
        best = scores[:, category].topk(150)
        keep = torchvision.ops.nms(boxes[best.indices], best.values, 0.2)
        rows += [(float(best.values[i]), int(best.indices[i]) * 3 + category) for i in keep]
    wanted = [index for _, index in sorted(rows, key=lambda row: -row[0])]
    assert kept[0, : counts[0]].tolist() == wanted


def test_nothing_is_above_the_threshold():
    kept, counts = nms(random_boxes(5)[None], torch.zeros(1, 5), 0.5, 3, 0.5)
    assert kept.tolist() == [[-1, -1, -1]]
    assert counts.tolist() == [0]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**31), st.sampled_from([0.1, 0.25, 0.5, 1.0]))
def test_any_boxes(count, seed, threshold):
    rng = np.random.default_rng(seed)
    boxes = torch.from_numpy(rng.integers(-3, 4, (count, 4)).astype(np.float32))
    scores = torch.from_numpy(rng.integers(0, 4, count).astype(np.float32))
    wanted = torchvision.ops.nms(boxes, scores, threshold)
    kept, _ = nms(boxes[None], scores[None], threshold, count)
    assert torch.equal(kept[0], padded(wanted, count))


@pytest.mark.parametrize("name", BOXES)
def test_kernel(cuda_device, name):
    boxes, scores = BOXES[name](300)
    check_kernels(multiclass_nms, boxes[None], scores[None, :, None], 0.5, 40, exact=True)


def test_kernel_of_several_pools(cuda_device):
    boxes, scores = random_boxes(5000, 4.0), torch.rand(1, 5000, 1).round(decimals=3)
    check_kernels(multiclass_nms, boxes[None], scores, 0.1, 700, exact=True)


def test_kernel_of_pools_of_one_score(cuda_device):
    boxes, scores = random_boxes(1, 4.0).expand(4500, 4), torch.full((1, 4500, 1), 0.25)
    check_kernels(multiclass_nms, boxes[None].contiguous(), scores, 0.1, 9, exact=True)


@pytest.mark.parametrize("top_k", [-1, 0, 25])
@pytest.mark.parametrize("count", [60, 300])
def test_kernel_of_classes(cuda_device, top_k, count):
    boxes = torch.stack([random_boxes(count), random_boxes(count) - 50])
    scores = torch.rand(2, count, 6)
    check_kernels(multiclass_nms, boxes, scores, 0.4, 64, 0.3, top_k, exact=True)


def test_kernel_of_categories(cuda_device):
    boxes, scores = random_boxes(400)[None], torch.rand(1, 400)
    check_kernels(batched_nms, boxes, scores, torch.randint(0, 5, (1, 400)), 0.4, 64, exact=True)


def test_kernel_that_keeps_nothing(cuda_device):
    check_kernels(multiclass_nms, random_boxes(9)[None], torch.zeros(1, 9, 2), 0.5, 4, 0.5)


def test_kernel_compiles():
    compile_kernels(multiclass_nms, random_boxes(9)[None], torch.zeros(1, 9, 2), 0.5, 4)


@pytest.mark.gpu
def test_as_torchvision_on_a_gpu():
    boxes, scores = random_boxes(BIG, 1000.0, 60.0).cuda(), torch.rand(BIG).cuda()
    import torch2rt

    class Suppress(torch.nn.Module):
        def forward(self, boxes, scores):
            return nms(boxes, scores, 0.5, 300)

    rt = torch2rt.convert(Suppress(), (boxes[None], scores[None]), progress=False)
    kept, counts = rt(boxes[None], scores[None])
    assert counts.tolist() == [300]
    assert torch.equal(kept[0], torchvision.ops.nms(boxes, scores, 0.5)[:300])
