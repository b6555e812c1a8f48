"""cuBLASLt where there is none: on the emulated device its products are computed on the host."""

import sys
from pathlib import Path

import pytest
from cuda_testing import RealGpu, cuda_device

from torch2rt.backends.cuda.cublaslt import binding

sys.path.insert(0, str(Path(__file__).parent))

__all__ = ["cuda_device"]


@pytest.fixture
def library(cuda_device, monkeypatch):
    """The fake on the emulated device; the library itself on a GPU."""
    from fake import FakeCublasLt

    if isinstance(cuda_device, RealGpu):
        return binding.library()
    fake = FakeCublasLt()
    monkeypatch.setattr(binding, "library", lambda: fake)
    monkeypatch.setattr(binding, "handle_of", lambda gpu: 7)
    monkeypatch.setattr(binding, "current_gpu", lambda: 0)
    return fake


