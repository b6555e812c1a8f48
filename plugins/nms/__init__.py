"""Non-maximum suppression: of boxes that overlap, the best one stays. Exact as torchvision's."""

from torch2rt.plugins.nms.plugin import batched_nms, multiclass_nms, nms

__all__ = ["batched_nms", "multiclass_nms", "nms"]
