"""Detectors of torchvision as one engine, post-processing included."""

from torch2rt.plugins.detection.whole import WholeDetector, WholeRetinaNet, WholeSSD, unpad, whole

__all__ = ["WholeDetector", "WholeRetinaNet", "WholeSSD", "unpad", "whole"]
