"""Tensor maps for kernels of Hopper where there is no driver to make them."""

from __future__ import annotations

import pytest
from cuda_emulator import EmulatedDevice
from cuda_emulator.hopper import encode_tiled

from torch2rt.backends.cuda.triton import tensor_map


@pytest.fixture(autouse=True)
def maps(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Maps for the emulated device, which is small where no GPU is asked for.

    So blocks take several matrices each, and rings and tiles come round.
    """
    if "gpu" not in request.node.keywords:
        monkeypatch.setattr(tensor_map, "_encode_tiled", lambda: encode_tiled)
        monkeypatch.setattr(EmulatedDevice, "multiprocessors", 1)
