"""Engines on the second of two GPUs, while torch's and CuPy's current device is the first."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.errors import InputError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second CUDA device"),
]


class Small(nn.Module):
    """Products, a convolution and what lies between: kernels of ours and of the libraries."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, 2, 1)
        self.second = nn.Conv2d(32, 64, 3, padding=1)
        self.last = nn.Linear(64, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x).relu()).relu()
        return self.last(x.mean((2, 3))).softmax(-1)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def engines(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> list[torch2rt.RTModule]:
    cache = tmp_path_factory.mktemp("devices") / "times.jsonl"
    x = torch.randn(4, 3, 40, 40)
    return [
        torch2rt.convert(
            copy.deepcopy(model).to(device), x.to(device), precision="fp16", timing_cache=cache,
            progress=False,
        )
        for device in ("cuda:0", "cuda:1")
    ]


def check(engine: torch2rt.RTModule, model: nn.Module, device: str, batch: int) -> None:
    x = torch.randn(batch, 3, 40, 40)
    for _ in range(4):  # enqueued, captured, replayed
        got = engine(x.to(device))
    assert got.device == torch.device(device)
    torch.testing.assert_close(got.cpu().float(), model(x).detach(), rtol=1e-2, atol=1e-3)


def test_each_runs_where_it_was_built(engines: list[torch2rt.RTModule], model: nn.Module) -> None:
    import cupy

    for _ in range(2):
        for index, engine in enumerate(engines):
            check(engine, model, f"cuda:{index}", 4)
            check(engine, model, f"cuda:{index}", 3)  # a plan on demand
            assert torch.cuda.current_device() == cupy.cuda.runtime.getDevice() == 0


def test_it_runs_on_torchs_current_stream_of_its_device(
    engines: list[torch2rt.RTModule], model: nn.Module
) -> None:
    x = torch.randn(4, 3, 40, 40)
    moved = torch.zeros(4, 3, 40, 40, device="cuda:1")
    stream = torch.cuda.Stream("cuda:1")
    with torch.cuda.stream(stream):
        for _ in range(3):
            moved.zero_()
            torch.cuda._sleep(10_000_000)
            moved.copy_(x, non_blocking=True)
            got = engines[1](moved) * 1
    stream.synchronize()
    torch.testing.assert_close(got.cpu().float(), model(x).detach(), rtol=1e-2, atol=1e-3)


def test_threads_on_both(engines: list[torch2rt.RTModule], model: nn.Module) -> None:
    failures: list[BaseException] = []

    def work(index: int) -> None:
        try:
            for _ in range(20):
                check(engines[index], model, f"cuda:{index}", 4)
        except BaseException as error:  # told to the test's thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n % 2,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def test_a_file_is_loaded_on_the_other_device(
    engines: list[torch2rt.RTModule], model: nn.Module, tmp_path: Path
) -> None:
    engines[0].save(tmp_path / "small.engine")
    check(torch2rt.load(tmp_path / "small.engine", device="cuda:1"), model, "cuda:1", 4)
    engine = torch2rt.Engine.load(tmp_path / "small.engine", device="cuda:1")
    x = torch.randn(4, 3, 40, 40)
    name = engine.bindings.inputs[0].name
    got = next(iter(engine.run({name: x.numpy()}).values()))
    np.testing.assert_allclose(got, model(x).detach().numpy(), rtol=1e-2, atol=1e-3)


def test_inputs_on_the_wrong_device_are_refused(engines: list[torch2rt.RTModule]) -> None:
    with pytest.raises(InputError, match=r"wrong device.*cuda:1.*cuda:0"):
        engines[1](torch.randn(4, 3, 40, 40, device="cuda:0"))
