"""torchvision's SSD and RetinaNet with outputs of fixed shape.

torchvision returns as many boxes as an image has, in lists, which no graph of tensors can do. Here
the network, its anchors and its decoding are the model's own; suppression is the shipped plugin,
and outputs are padded, with a count.
"""

from __future__ import annotations

import abc
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from torch2rt.plugins.nms import batched_nms, multiclass_nms


class WholeDetector(nn.Module, abc.ABC):
    """A detector for images of one size.

    Input float32 [b, 3, h, w], RGB in 0..1, as torchvision's detectors take it, but as one tensor.
    Output: "boxes" float32 [b, d, 4] as x1, y1, x2, y2 in pixels of the input, "scores" [b, d],
    "labels" int64 [b, d], best first, then zeros, and "counts" int32 [b]. d is the model's
    ``detections_per_img``.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """[b, 3, h, w] -> boxes, scores, labels, counts."""
        resized, (h, w) = self._transform(images)
        found = self.model.backbone(resized)
        features = [found] if isinstance(found, torch.Tensor) else list(found.values())
        outputs = self.model.head(features)
        one_image = SimpleNamespace(tensors=resized, image_sizes=[(h, w)])
        anchors = self.model.anchor_generator(one_image, features)[0]
        boxes, scores, labels, kept, counts = self._detect(outputs, anchors, features, (h, w))
        scale = boxes.new_tensor([images.shape[3] / w, images.shape[2] / h]).repeat(2)
        exists = kept >= 0
        return {
            "boxes": torch.where(exists[..., None], boxes * scale, 0.0),
            "scores": torch.where(exists, scores, 0.0),
            "labels": torch.where(exists, labels, 0), "counts": counts,
        }

    @abc.abstractmethod
    def _detect(
        self, outputs: dict[str, torch.Tensor], anchors: torch.Tensor,
        features: list[torch.Tensor], size: tuple[int, int],
    ) -> tuple[torch.Tensor, ...]:
        """Boxes, scores, labels, what is kept (-1: padding), counts."""

    def _transform(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """What GeneralizedRCNNTransform does: normalise, resize, pad; and the size before that."""
        rules = self.model.transform
        images = rules.normalize(images)
        sides = sorted(images.shape[2:])
        if rules.fixed_size is not None:
            images = _resized(images, size=[rules.fixed_size[1], rules.fixed_size[0]])
        else:
            scale = min(rules.min_size[-1] / sides[0], rules.max_size / sides[1])
            images = _resized(images, scale_factor=scale, recompute_scale_factor=True)
        h, w = images.shape[2:]
        step = rules.size_divisible
        return functional.pad(images, (0, -w % step, 0, -h % step)), (h, w)

    def _decode(
        self, offsets: torch.Tensor, anchors: torch.Tensor, size: tuple[int, int]
    ) -> torch.Tensor:
        """Offsets [b, n, 4] from anchors [b, n, 4] -> boxes, clipped to the image."""
        flat = self.model.box_coder.decode_single(offsets.reshape(-1, 4), anchors.reshape(-1, 4))
        x1, y1, x2, y2 = flat.reshape(offsets.shape).unbind(-1)
        h, w = size
        return torch.stack(
            [x1.clamp(0, w), y1.clamp(0, h), x2.clamp(0, w), y2.clamp(0, h)], -1
        )


class WholeSSD(WholeDetector):
    """torchvision's SSD: of every class the best ``topk_candidates`` take part in suppression."""

    def _detect(
        self, outputs: dict[str, torch.Tensor], anchors: torch.Tensor,
        features: list[torch.Tensor], size: tuple[int, int],
    ) -> tuple[torch.Tensor, ...]:
        offsets, model = outputs["bbox_regression"], self.model
        boxes = self._decode(offsets, anchors.expand_as(offsets), size)
        scores = functional.softmax(outputs["cls_logits"], -1)[..., 1:]
        kept, counts = multiclass_nms(
            boxes, scores, model.nms_thresh, model.detections_per_img, model.score_thresh,
            model.topk_candidates,
        )
        index, classes = kept.clamp(min=0), scores.shape[2]
        return (
            _rows(boxes, index // classes), torch.gather(scores.flatten(1), 1, index),
            index % classes + 1, kept, counts,
        )


class WholeRetinaNet(WholeDetector):
    """torchvision's RetinaNet: of every level the best ``topk_candidates`` take part."""

    def _detect(
        self, outputs: dict[str, torch.Tensor], anchors: torch.Tensor,
        features: list[torch.Tensor], size: tuple[int, int],
    ) -> tuple[torch.Tensor, ...]:
        model, logits = self.model, outputs["cls_logits"]
        places = [feature.shape[2] * feature.shape[3] for feature in features]
        sizes = [logits.shape[1] // sum(places) * place for place in places]
        parts = [
            self._level(*level, size) for level in zip(
                torch.split(logits, sizes, 1), torch.split(outputs["bbox_regression"], sizes, 1),
                torch.split(anchors, sizes), strict=True,
            )
        ]
        boxes, scores, labels = (torch.cat(items, 1) for items in zip(*parts, strict=True))
        kept, counts = batched_nms(
            boxes, scores, labels, model.nms_thresh, model.detections_per_img, model.score_thresh
        )
        index = kept.clamp(min=0)
        return (
            _rows(boxes, index), torch.gather(scores, 1, index), torch.gather(labels, 1, index),
            kept, counts,
        )

    def _level(
        self, logits: torch.Tensor, offsets: torch.Tensor, anchors: torch.Tensor,
        size: tuple[int, int],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The candidates of one level: boxes [b, m, 4], scores [b, m], labels [b, m]."""
        classes = logits.shape[2]
        scores = logits.sigmoid().flatten(1)
        best = scores.topk(min(self.model.topk_candidates, logits.shape[1] * classes))
        anchor = best.indices // classes
        boxes = self._decode(_rows(offsets, anchor), anchors[anchor], size)
        return boxes, best.values, best.indices % classes


_WHOLE: dict[str, type[WholeDetector]] = {"SSD": WholeSSD, "RetinaNet": WholeRetinaNet}


def whole(model: nn.Module) -> WholeDetector:
    """A detector of torchvision as a module that converts to one engine. TypeError for another.

    Example:
        >>> rt = torch2rt.convert(whole(ssd300_vgg16(weights="DEFAULT").eval()), images)
        >>> detections = unpad(rt(images))      # as the model returns them
    """
    for kind in type(model).__mro__:
        if kind.__name__ in _WHOLE:
            return _WHOLE[kind.__name__](model).eval()
    raise TypeError(f"{type(model).__name__} is not one of {', '.join(_WHOLE)} of torchvision")


def unpad(outputs: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Padded outputs as torchvision's detectors return them: a dict per image, without padding."""
    return [
        {name: outputs[name][image, :count] for name in ("boxes", "scores", "labels")}
        for image, count in enumerate(outputs["counts"].tolist())
    ]


def _resized(images: torch.Tensor, **options: Any) -> torch.Tensor:
    resized: torch.Tensor = functional.interpolate(
        images, mode="bilinear", align_corners=False, **options
    )
    return resized


def _rows(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """[b, n, 4] and [b, m] -> [b, m, 4]."""
    return torch.gather(values, 1, index[..., None].expand(-1, -1, values.shape[2]))
