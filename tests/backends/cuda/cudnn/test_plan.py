"""How plans use cuDNN's handle, with a package that records what it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from cuda_emulator import EmulatedDevice
from cuda_testing import BlobWeights
from tactic_testing import make_spec

from torch2rt.backends.backend import find_tactic
from torch2rt.backends.buffer import Buffer
from torch2rt.backends.cuda.cudnn import binding, graph, plan
from torch2rt.backends.cuda.cudnn.plan import _HEADER, Plan, PlanJob
from torch2rt.backends.cuda.device import preparing_for
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.errors import DeviceError
from torch2rt.layers.convolution import Convolution


class Handle:
    def __init__(self) -> None:
        self.stream = 0


class FakeGraph:
    """A graph of one plan."""

    workspace_bytes = 4096

    def __init__(self, package: FakeCudnn, handle: Handle | None) -> None:
        self.package, self.handle = package, handle

    def deserialize(self, handle: Handle, data: list[int]) -> None:
        assert handle is self.handle is self.package.made[0]
        assert handle.stream == 0, "the stream of another plan, which may be gone"
        if data == [0]:
            raise RuntimeError("made by another version")
        self.package.loaded.append(bytes(data))

    def execute(self, addresses: dict[int, int], workspace: int | None, handle: Handle) -> None:
        if 666 in addresses.values():
            raise RuntimeError("no such memory")
        self.package.executed.append((dict(addresses), workspace, handle.stream))

    def get_workspace_size_plan_at_index(self, index: int) -> int:
        return self.workspace_bytes

    def serialize(self) -> list[int]:
        return [1, 2, 3]


class FakeCudnn:
    """The package."""

    cudnnGraphNotSupportedError = KeyError

    def __init__(self) -> None:
        self.made: list[Handle] = []
        self.loaded: list[bytes] = []
        self.executed: list[tuple[dict[int, int], int | None, int]] = []

    def create_handle(self) -> Handle:
        self.made.append(Handle())
        return self.made[-1]

    def set_stream(self, handle: Handle, stream: int) -> None:
        handle.stream = stream

    def backend_version(self) -> int:
        return 91900

    def pygraph(self, handle: Handle | None = None) -> FakeGraph:
        return FakeGraph(self, handle)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCudnn]:
    fake = FakeCudnn()
    for module in (binding, graph, plan):
        monkeypatch.setattr(module, "cudnn", lambda: fake)
    monkeypatch.setattr(plan, "current_gpu", lambda: 0)
    for module in (binding, plan):
        monkeypatch.setattr(module, "on_gpu", lambda gpu: nullcontext())
    monkeypatch.setattr(plan, "planned_graph", lambda *_: FakeGraph(fake, None))
    monkeypatch.setattr(plan, "build_plan", lambda *_, **__: 0)
    binding._handle_of.cache_clear()
    yield fake
    binding._handle_of.cache_clear()


def test_one_handle_serves_all_plans_and_loads_on_the_default_stream(package: FakeCudnn) -> None:
    first = Plan(b"a")
    first.execute({1: 16}, 0, 77)
    second = Plan(b"b")
    second.execute({1: 32}, 64, 78)
    assert package.loaded == [b"a", b"b"]
    assert package.executed == [({1: 16}, None, 77), ({1: 32}, 64, 78)]
    assert len(package.made) == 1


def test_a_plan_that_does_not_load_is_a_reason(package: FakeCudnn) -> None:
    with pytest.raises(Unprepared, match="cuDNN 91900 does not load the plan, which another ver"):
        Plan(b"\0")


def test_a_job_gives_the_size_of_the_workspace_and_the_plan(
    package: FakeCudnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    tactic, spec, _ = small()
    job = PlanJob(tactic.graph(spec).description, 0, 0)
    assert job.run() == _HEADER.pack(4096) + b"\1\2\3"
    monkeypatch.setattr(FakeGraph, "workspace_bytes", 300 << 20)
    with pytest.raises(Unprepared, match="300 MiB of workspace"):
        job.run()


def small() -> tuple[Any, LayerSpec, dict[str, Any]]:
    kind = Convolution((1, 1), (0, 0), (0, 0), (1, 1))
    inputs = [torch.randn(1, 16, 4, 4).half(), torch.randn(16, 16, 1, 1).half()]
    tactic = find_tactic("torch2rt.backends.cuda.tactics", "convolution.cudnn.plan1")
    spec = make_spec(kind, inputs, None, [1])
    return tactic, spec.with_layouts(tactic.layouts(spec)[0]), {"c1": inputs[1].numpy()}


class Stream:
    ptr = 55


def test_a_prepared_tactic_follows_buffers_that_move(package: FakeCudnn) -> None:
    tactic, spec, arrays = small()
    with preparing_for(EmulatedDevice()):
        prepared = tactic.prepare(spec, BlobWeights(arrays))
    assert prepared.workspace_bytes == 4096
    given, made = Buffer(spec.inputs[0], 16, moves=True), Buffer(spec.outputs[0], 32)
    weight = Buffer(spec.inputs[1], constant="c1")
    ((call, arguments),) = prepared.bind([given, weight], [made], 64, Stream())
    assert call.moves
    assert not call(*arguments)
    given.move(48)
    call()
    (first, workspace, stream), (second, _, _) = package.executed
    assert (first[1], first[3], workspace, stream) == (16, 32, 64, 55)
    assert second == {**first, 1: 48}


def test_a_plan_that_does_not_run_is_an_error_of_the_device(package: FakeCudnn) -> None:
    tactic, spec, arrays = small()
    with preparing_for(EmulatedDevice()):
        prepared = tactic.prepare(spec, BlobWeights(arrays))
    inputs = [Buffer(spec.inputs[0], 666), Buffer(spec.inputs[1], constant="c1")]
    ((call, _),) = prepared.bind(inputs, [Buffer(spec.outputs[0], 32)], 0, None)
    assert not call.moves
    with pytest.raises(DeviceError, match=r"cuDNN did not run a plan \(no such memory\)"):
        call()


def test_a_blob_without_a_plan_is_a_reason(package: FakeCudnn) -> None:
    tactic, spec, arrays = small()
    weights = BlobWeights(arrays)
    with preparing_for(EmulatedDevice()):
        tactic.prepare(spec, weights)
        (key,) = weights.blobs
        assert key.endswith("/1")
        with pytest.raises(Unprepared, match="no bytes"):
            tactic.prepare(spec, BlobWeights(arrays, {key: b""}))
