"""Non-maximum suppression as plugins: fixed shapes, padded, with a count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

import torch2rt
from torch2rt.plugin import Attributes, CudaKernel, Shapes, count
from torch2rt.plugins.nms.arrays import SHIFTED_COORDINATES, Options, suppress
from torch2rt.plugins.nms.kernel import KEPT_BYTES, NAME, THREADS, nms_source

# Below every finite score.
NO_THRESHOLD = -3.0e38


def _images(shapes: Shapes, attributes: Attributes) -> object:
    return shapes.inputs[0][0]


def _workspace(shapes: Shapes, attributes: Attributes) -> object:
    return KEPT_BYTES * count(shapes.outputs[0]) + 4 * count(shapes.inputs[1][::2])


def _numbers(shapes: Shapes, attributes: Attributes) -> list[object]:
    _, n, *classes = shapes.inputs[1]
    k = classes[0] if classes else 1
    is_shifted = attributes["like_torchvision"] and (classes != [1])
    return [
        n * k, k, attributes["max_output"], attributes.get("top_k", -1),
        SHIFTED_COORDINATES["cuda"] if is_shifted else -1,
        attributes["iou_threshold"], attributes["score_threshold"],
    ]


def _fake(boxes: torch.Tensor, max_output: int) -> tuple[torch.Tensor, torch.Tensor]:
    kept = boxes.new_empty((boxes.shape[0], max_output), dtype=torch.int64)
    return kept, boxes.new_empty((boxes.shape[0],), dtype=torch.int32)


def _fake_multiclass(
    boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, max_output: int,
    score_threshold: float = NO_THRESHOLD, top_k: int = -1, like_torchvision: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _fake(boxes, max_output)


def _fake_batched(
    boxes: torch.Tensor, scores: torch.Tensor, categories: torch.Tensor, iou_threshold: float,
    max_output: int, score_threshold: float = NO_THRESHOLD, like_torchvision: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _fake(boxes, max_output)


def _on_cpu(
    inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], attributes: Attributes
) -> None:
    boxes, scores = inputs[:2]
    categories = inputs[2] if len(inputs) > 2 else None
    _suppress_all(boxes, scores, categories, _options(attributes, "cpu"), *outputs)


@torch2rt.plugin(
    "torch2rt_plugins::multiclass_nms",
    cuda=CudaKernel(
        nms_source(has_categories=False), NAME, grid=_images, block=THREADS, numbers=_numbers
    ),
    cpu=_on_cpu, fake=_fake_multiclass, workspace=_workspace,
)
def multiclass_nms(
    boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, max_output: int,
    score_threshold: float = NO_THRESHOLD, top_k: int = -1, like_torchvision: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Suppression within every class of every image.

    ``boxes``: float32 [b, n, 4] as x1, y1, x2, y2. ``scores``: [b, n, k], of every box in every
    class. Candidates with a score above ``score_threshold`` take part, of every class the best
    ``top_k`` (-1: all); a box is suppressed if its overlap (intersection over union) with a better
    one of its class that is kept is above ``iou_threshold``.

    Returns ``kept`` int64 [b, max_output], best first, then -1: candidate i is box i // k in class
    i % k; and how many there are, int32 [b]. Equal scores keep their order.

    ``like_torchvision``: with few boxes (see `SHIFTED_COORDINATES`) the overlap is rounded as
    `torchvision.ops.batched_nms` rounds it on this device, so that results are the same even where
    an overlap is next to the threshold.
    """
    attributes = {
        "iou_threshold": iou_threshold, "max_output": max_output,
        "score_threshold": score_threshold, "top_k": top_k,
        "like_torchvision": like_torchvision and scores.shape[2] > 1,
    }
    return _in_numpy(boxes, scores, None, attributes)


@torch2rt.plugin(
    "torch2rt_plugins::batched_nms",
    cuda=CudaKernel(
        nms_source(has_categories=True), NAME, grid=_images, block=THREADS, numbers=_numbers
    ),
    cpu=_on_cpu, fake=_fake_batched, workspace=_workspace,
)
def batched_nms(
    boxes: torch.Tensor, scores: torch.Tensor, categories: torch.Tensor, iou_threshold: float,
    max_output: int, score_threshold: float = NO_THRESHOLD, like_torchvision: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`torchvision.ops.batched_nms` for images of one size, padded: see `multiclass_nms`.

    ``boxes``: float32 [b, n, 4]. ``scores``: float32 [b, n]. ``categories``: integers [b, n];
    boxes of unequal categories do not suppress each other. Returns ``kept`` int64 [b, max_output],
    indices of boxes, and their count, int32 [b].
    """
    attributes = {
        "iou_threshold": iou_threshold, "max_output": max_output,
        "score_threshold": score_threshold, "like_torchvision": like_torchvision,
    }
    return _in_numpy(boxes, scores, categories, attributes)


def nms(
    boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, max_output: int,
    score_threshold: float = NO_THRESHOLD,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`torchvision.ops.nms` for images of one size, padded: see `multiclass_nms`.

    ``boxes``: float32 [b, n, 4]. ``scores``: float32 [b, n]. Returns ``kept`` int64 [b, max_output]
    and its count, int32 [b].
    """
    kept, counts = multiclass_nms(
        boxes, scores[..., None], iou_threshold, max_output, score_threshold
    )
    return kept, counts


def _in_numpy(
    boxes: torch.Tensor, scores: torch.Tensor, categories: torch.Tensor | None,
    attributes: Attributes,
) -> tuple[torch.Tensor, torch.Tensor]:
    kept = np.empty((len(boxes), attributes["max_output"]), np.int64)
    counts = np.empty(len(boxes), np.int32)
    _suppress_all(
        boxes.detach().cpu().float().numpy(), scores.detach().cpu().float().numpy(),
        None if categories is None else categories.cpu().numpy(),
        _options(attributes, boxes.device.type), kept, counts,
    )
    return torch.from_numpy(kept).to(boxes.device), torch.from_numpy(counts).to(boxes.device)


def _options(attributes: Attributes, device: str) -> Options:
    iou_threshold = np.float32(attributes["iou_threshold"])
    if device == "cpu" and float(iou_threshold) > attributes["iou_threshold"]:
        # There torchvision compares in double: as if the threshold were rounded down.
        iou_threshold = np.nextafter(iou_threshold, np.float32(-np.inf))
    return Options(
        float(iou_threshold), attributes["score_threshold"], attributes["max_output"],
        attributes.get("top_k", -1),
        SHIFTED_COORDINATES[device] if attributes["like_torchvision"] else -1,
    )


def _suppress_all(
    boxes: np.ndarray, scores: np.ndarray, categories: np.ndarray | None, options: Options,
    kept: np.ndarray, counts: np.ndarray,
) -> None:
    """Image by image."""
    classes = scores.shape[2] if scores.ndim > 2 else 1
    of_candidates = np.arange(scores[0].size) % classes if classes > 1 else None
    for image in range(len(boxes)):
        found = suppress(
            boxes[image], scores[image].reshape(-1),
            categories[image] if categories is not None else of_candidates, options,
        )
        kept[image, : found.size] = found
        kept[image, found.size :] = -1
        counts[image] = found.size
