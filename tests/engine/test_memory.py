"""An engine whose memory is not there says how much it needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torch2rt
from torch2rt.backends.cpu.backend import CpuBackend
from torch2rt.engine.context import Executable
from torch2rt.errors import DeviceError


class Small(CpuBackend):
    """A device without a byte to spare."""

    def allocate(self, size_bytes: int) -> Any:
        raise DeviceError(device="cpu", reason=f"{size_bytes} bytes are not there", remedy="Buy.")


def test_activations_that_do_not_fit(tmp_path: Any) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3)).eval()
    rt = torch2rt.convert(
        model, torch.randn(1, 3, 16, 16), timing_cache=tmp_path / "t.jsonl", progress=False
    )
    engine = rt.engine
    plan = engine.plans[0]
    layers = {layer.name: layer for layer in engine.network.layers}
    executable = Executable(plan, layers, Small(1), engine.weights, engine.prepare)
    with pytest.raises(DeviceError, match=r"does not fit: it needs .* GiB for activations") as info:
        executable.acquire()
    assert f"{plan.arena_bytes} bytes are not there" in str(info.value)
    assert info.value.facts["remedy"] == "Buy."
