"""Samples of volumes at any points: `torch.nn.functional.grid_sample` of 5-D tensors."""

from torch2rt.plugins.grid_sample.plugin import grid_sample_3d

__all__ = ["grid_sample_3d"]
