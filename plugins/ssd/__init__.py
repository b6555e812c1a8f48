"""The two layers of SSD that no framework has: prior boxes, and detections out of them (2015)."""

from torch2rt.plugins.ssd.detection_output import DetectionOutput, detection_output
from torch2rt.plugins.ssd.prior_box import PriorBox, prior_box

__all__ = ["DetectionOutput", "PriorBox", "detection_output", "prior_box"]
