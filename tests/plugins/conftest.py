"""Kernels of plugins run where the fixture says: emulated, or on a GPU."""

from cuda_testing import cuda_device

__all__ = ["cuda_device"]
