"""Where CUDA tests run: on the emulated device, and on a GPU when tests marked gpu are selected."""

from cuda_testing import cuda_device

__all__ = ["cuda_device"]
