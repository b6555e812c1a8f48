"""SSD's DetectionOutput as a plugin."""

from __future__ import annotations

import torch
from torch import nn

import torch2rt
from torch2rt.plugin import Attributes, CudaKernel, Shapes, ceil_div
from torch2rt.plugins.nms import multiclass_nms
from torch2rt.plugins.nms.kernel import KEPT_BYTES, THREADS
from torch2rt.plugins.ssd.kernels import (
    COLLECT_NAME,
    COLLECT_SOURCE,
    COLLECT_THREADS,
    DECODE_NAME,
    DECODE_SOURCE,
    DECODE_THREADS,
    SUPPRESS_NAME,
    SUPPRESS_SOURCE,
)

CODES = ("center_size", "corner")


def _sizes(shapes: Shapes, attributes: Attributes) -> tuple[object, object, object]:
    """Images, priors, classes."""
    images, numbers = shapes.inputs[0]
    n = numbers // 4
    return images, n, shapes.inputs[1][1] // n


def _images(shapes: Shapes, attributes: Attributes) -> object:
    return shapes.inputs[0][0]


def _priors(shapes: Shapes, attributes: Attributes) -> object:
    images, numbers = shapes.inputs[0]
    return ceil_div(images * (numbers // 4), DECODE_THREADS)


def _workspace(shapes: Shapes, attributes: Attributes) -> object:
    images, numbers = shapes.inputs[0]
    classes = shapes.inputs[1][1] // (numbers // 4)
    kept = images * attributes["keep_top_k"]
    return numbers * images * 4 + kept * (8 + KEPT_BYTES) + 16 + images * classes * 4


def _decode_numbers(shapes: Shapes, attributes: Attributes) -> list[object]:
    images, n, _ = _sizes(shapes, attributes)
    is_scaled = not attributes["variance_encoded_in_target"]
    return [images, n, attributes["code_type"] == CODES[0], is_scaled]


def _suppress_numbers(shapes: Shapes, attributes: Attributes) -> list[object]:
    names = (
        "keep_top_k", "nms_top_k", "background", "nms_threshold", "confidence_threshold",
    )
    return [*_sizes(shapes, attributes), *(attributes[name] for name in names)]


def _collect_numbers(shapes: Shapes, attributes: Attributes) -> list[object]:
    return [*_sizes(shapes, attributes), attributes["keep_top_k"]]


def _fake(
    offsets: torch.Tensor, scores: torch.Tensor, priors: torch.Tensor, background: int,
    nms_threshold: float, confidence_threshold: float, nms_top_k: int, keep_top_k: int,
    code_type: str = "center_size", variance_encoded_in_target: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    images = offsets.shape[0]
    return (
        offsets.new_empty((images, keep_top_k, 7), dtype=torch.float32),
        offsets.new_empty((images,), dtype=torch.int32),
    )


@torch2rt.plugin(
    "torch2rt_plugins::detection_output",
    cuda=[
        CudaKernel(DECODE_SOURCE, DECODE_NAME, _priors, DECODE_THREADS, numbers=_decode_numbers),
        CudaKernel(SUPPRESS_SOURCE, SUPPRESS_NAME, _images, THREADS, numbers=_suppress_numbers),
        CudaKernel(
            COLLECT_SOURCE, COLLECT_NAME, _images, COLLECT_THREADS, numbers=_collect_numbers
        ),
    ],
    fake=_fake, workspace=_workspace,
)
def detection_output(
    offsets: torch.Tensor, scores: torch.Tensor, priors: torch.Tensor, background: int,
    nms_threshold: float, confidence_threshold: float, nms_top_k: int, keep_top_k: int,
    code_type: str = "center_size", variance_encoded_in_target: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes out of offsets from priors, then suppression within each class.

    ``offsets``: [b, n*4]. ``scores``: [b, n*k], k classes of every prior, ``background`` being one
    that is ignored (-1: none is). ``priors``: [1, 2, n*4] as `prior_box` gives them. With variances
    v, ("center_size")

        centre = v * offset * prior size + prior centre;  size = exp(v * offset) * prior size

    or ("corner") corners = v * offset + prior corners; ``variance_encoded_in_target``: without v.
    Of every class the best ``nms_top_k`` above ``confidence_threshold`` take part (-1: all); of all
    that is left the best ``keep_top_k`` are kept.

    Returns float32 [b, keep_top_k, 7]: image, class, score, x1, y1, x2, y2, best first, rows
    without a detection being -1, 0, ...; and how many there are, int32 [b]. Source: "SSD: Single
    Shot MultiBox Detector" (2015), Caffe's DetectionOutput layer with shared locations.
    """
    if code_type not in CODES:
        raise ValueError(f"code_type {code_type!r} is not one of {', '.join(map(repr, CODES))}")
    images, n = len(offsets), priors.shape[2] // 4
    boxes = _decode(
        offsets.reshape(images, n, 4), priors.reshape(2, n, 4), code_type == CODES[0],
        variance_encoded_in_target,
    )
    confidence = scores.reshape(images, n, -1).clone()
    if background >= 0:
        confidence[:, :, background] = float("-inf")
    classes = confidence.shape[2]
    kept, counts = multiclass_nms(
        boxes, confidence, nms_threshold, keep_top_k, confidence_threshold, nms_top_k, False
    )
    index = kept.clamp(min=0)
    image = torch.arange(images, device=offsets.device).expand(keep_top_k, images).T
    columns = [
        image[..., None].to(boxes.dtype), (index % classes)[..., None].to(boxes.dtype),
        torch.gather(confidence.flatten(1), 1, index)[..., None],
        torch.gather(boxes, 1, (index // classes)[..., None].expand(-1, -1, 4)),
    ]
    nothing = boxes.new_tensor([-1.0, 0, 0, 0, 0, 0, 0])
    return torch.where((kept >= 0)[..., None], torch.cat(columns, 2), nothing), counts


def _decode(
    offsets: torch.Tensor, priors: torch.Tensor, is_centred: bool, is_scaled_already: bool
) -> torch.Tensor:
    """[b, n, 4] and [2, n, 4] -> boxes [b, n, 4]."""
    prior = priors[0]
    scaled = offsets if is_scaled_already else offsets * priors[1]
    if not is_centred:
        return prior + scaled
    size = prior[:, 2:] - prior[:, :2]
    centre = scaled[..., :2] * size + (prior[:, :2] + prior[:, 2:]) / 2
    half = scaled[..., 2:].exp() * size / 2
    return torch.cat([centre - half, centre + half], -1)


class DetectionOutput(nn.Module):
    """`detection_output` with its configuration, as Caffe's layer has it."""

    def __init__(
        self, background: int = 0, nms_threshold: float = 0.45, confidence_threshold: float = 0.01,
        nms_top_k: int = 400, keep_top_k: int = 200, code_type: str = "center_size",
        variance_encoded_in_target: bool = False,
    ) -> None:
        super().__init__()
        self.background, self.nms_threshold = background, nms_threshold
        self.confidence_threshold, self.nms_top_k = confidence_threshold, nms_top_k
        self.keep_top_k, self.code_type = keep_top_k, code_type
        self.variance_encoded_in_target = variance_encoded_in_target

    def forward(
        self, offsets: torch.Tensor, scores: torch.Tensor, priors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[b, n*4], [b, n*k], [1, 2, n*4] -> detections [b, keep_top_k, 7], counts [b]."""
        detections, counts = detection_output(
            offsets, scores, priors, self.background, self.nms_threshold,
            self.confidence_threshold, self.nms_top_k, self.keep_top_k, self.code_type,
            self.variance_encoded_in_target,
        )
        return detections, counts
