"""The head of YOLOv2: the last feature map as boxes and class scores."""

from torch2rt.plugins.region.plugin import RegionDecode, region_decode

__all__ = ["RegionDecode", "region_decode"]
