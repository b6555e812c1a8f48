"""The contender that replays a CUDA graph keeps what the graph refers to."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from torch2rt.bench.contenders import BuildRequest, load_contender
from torch2rt.bench.contenders import graph as contender_file
from torch2rt.bench.source import LoadedModel


class Recorded:
    """A CUDA graph that counts its replays."""

    count = 0

    def replay(self) -> None:
        Recorded.count += 1


class Stream:
    """A stream that needs no GPU."""

    def wait_stream(self, other: object) -> None:
        """Nothing runs behind the caller."""


def test_the_weights_outlive_the_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A graph knows addresses: replayed after its model was freed, it reads what comes there."""
    cuda: Any = SimpleNamespace(
        Stream=Stream, current_stream=Stream, stream=lambda stream: nullcontext(),
        CUDAGraph=Recorded, graph=lambda graph: nullcontext(),
    )
    monkeypatch.setattr(contender_file, "torch", SimpleNamespace(cuda=cuda))
    model = torch.nn.Linear(3, 2)
    weight = weakref.ref(model.weight)
    request = BuildRequest(
        LoadedModel(model, (torch.randn(1, 3),), {}), "plain", "fp32", "cpu", 1, tmp_path
    )
    monkeypatch.setattr(contender_file, "on_gpu", lambda request: request.loaded)
    call = load_contender("graph").build(request)
    del model, request
    gc.collect()
    assert weight() is not None
    call()
    assert Recorded.count == 1
    del call
    gc.collect()
    assert weight() is None
