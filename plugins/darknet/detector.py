"""YOLOv2 as a whole: the network, its region layer and suppression, with outputs of fixed shape."""

from __future__ import annotations

import torch
from torch import nn

from torch2rt.plugins.darknet.errors import DarknetError
from torch2rt.plugins.darknet.module import Darknet
from torch2rt.plugins.nms import multiclass_nms


class Detector(nn.Module):
    """A network that ends with ``[region]``, followed by suppression within each class.

    Input float32 [b, 3, h, w], RGB in 0..1. Output: detections float32 [b, max_output, 6] as
    x1, y1, x2, y2 in parts of the image, score, class; best first, then zeros; and how many there
    are, int32 [b].

    Example:
        >>> detector = Detector(darknet.load("yolov2.cfg", "yolov2.weights"))
        >>> detections, counts = torch2rt.convert(detector, image)(image)
    """

    def __init__(
        self, network: Darknet, score_threshold: float = 0.5, iou_threshold: float = 0.45,
        max_output: int = 100,
    ) -> None:
        super().__init__()
        if network.steps[-1].kind != "region":
            raise DarknetError(
                file="cfg", reason=f"a detector ends with [region], not [{network.steps[-1].kind}]"
            )
        self.network = network
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold
        self.max_output = max_output

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[b, 3, h, w] -> detections [b, max_output, 6], counts [b]."""
        boxes, scores = self.network(x)
        kept, counts = multiclass_nms(
            boxes, scores, self.iou_threshold, self.max_output, self.score_threshold
        )
        classes = scores.shape[2]
        index = kept.clamp(min=0)
        box, category = index // classes, index % classes
        corners = torch.gather(boxes, 1, box[..., None].expand(-1, -1, 4))
        score = torch.gather(scores.flatten(1), 1, index)[..., None]
        found = torch.cat([corners, score, category[..., None].to(boxes.dtype)], 2)
        return torch.where((kept >= 0)[..., None], found, 0.0), counts
