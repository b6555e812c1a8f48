"""RoIAlign: features of boxes, averaged over bilinear samples ("Mask R-CNN", 2017)."""

from torch2rt.plugins.roi_align.plugin import roi_align

__all__ = ["roi_align"]
