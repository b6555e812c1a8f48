"""CuDNN's plans on a real GPU: all of them, in graphs, on moving memory, loaded elsewhere."""

from __future__ import annotations

import gc
import math
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cuda_testing import BlobWeights, check_cuda_tactic, real_gpu
from cuda_testing import testing_on as on_device
from tactic_testing import make_spec

import torch2rt
from torch2rt.backends.backend import find_tactic
from torch2rt.backends.buffer import Buffer
from torch2rt.backends.cuda.cudnn.graph import planned_graph
from torch2rt.backends.cuda.cudnn.plan import PlanJob
from torch2rt.backends.cuda.device import preparing_for
from torch2rt.backends.devices import open_backend
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Tactic, Unprepared
from torch2rt.inspect.tolerance import NETWORK, relative_error
from torch2rt.layers.attention import Attention
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.matmul import Matmul
from torch2rt.network.layer import LayerKind
from torch2rt.torch_values import constant_from_torch

pytestmark = pytest.mark.gpu
TACTICS = "torch2rt.backends.cuda.tactics"


def rand(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.randn(shape).to(dtype)


def window(size: int, stride: int = 1) -> Convolution:
    return Convolution((stride,) * 2, (size // 2,) * 2, (size // 2,) * 2, (1, 1))


def bottleneck(pixels: int, c: int, k: int) -> tuple[LayerKind, list[torch.Tensor], str]:
    """The last convolution of a residual block."""
    inputs = [
        rand(2, c, pixels, pixels), rand(k, c, 1, 1) / c**0.5, rand(k, 1, 1).float(),
        rand(2, k, pixels, pixels),
    ]
    return window(1), inputs, "relu(add(add(i0,i1),i2))"


def layers() -> dict[str, tuple[LayerKind, list[torch.Tensor], str | None]]:
    heads = dict.fromkeys(
        ("query_heads_last", "key_heads_last", "value_heads_last", "output_heads_last"), True
    )
    linear = [rand(2, 384, 768), rand(3072, 768) / 28, rand(3072).float()]
    return {
        "bottleneck 56": bottleneck(56, 64, 256),
        "bottleneck 7": bottleneck(7, 512, 2048),
        "window": (window(3), [rand(2, 128, 28, 28), rand(128, 128, 3, 3) / 34,
                               rand(128, 1, 1).float()], "relu(add(i0,i1))"),
        "strided": (window(3, 2), [rand(2, 256, 28, 28), rand(256, 256, 3, 3) / 48], None),
        "float32": (window(3), [rand(2, 64, 14, 14).float(), rand(64, 64, 3, 3).float() / 24,
                                rand(64, 1, 1).float()], "relu(add(i0,i1))"),
        "linear": (Matmul(transpose_b=True), linear, "gelu(add(i0,i1))"),
        "attention": (Attention(0.125, **heads), [rand(2, 384, 12, 64)] * 3, None),
    }


CASES = (
    "bottleneck 56", "bottleneck 7", "window", "strided", "float32", "linear", "attention",
)


@pytest.mark.parametrize("case", CASES)
def test_every_plan_gives_the_values(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    kind, inputs, epilogue = layers()[case]
    constants = [1, 2] if epilogue is not None else [1]
    if isinstance(kind, Attention):
        constants = []
    made = 0
    for choice in range(6):
        name = f"{kind.name}.cudnn.plan{choice}"
        try:
            find_tactic(TACTICS, name)
        except KeyError:
            break
        reason = _reason(name, kind, inputs, epilogue, constants)
        if reason is not None:
            assert "fewer than" in reason or "does not build" in reason, reason
            continue
        with on_device(real_gpu()):
            check_cuda_tactic(name, kind, inputs, epilogue, constants=constants)
        made += 1
    with capsys.disabled():
        print(f"\n{case}: {made} plans")
    assert made


def _spec(
    kind: LayerKind, inputs: list[torch.Tensor], epilogue: str | None, constants: list[int]
) -> tuple[Any, LayerSpec, dict[str, Any]]:
    spec = make_spec(kind, inputs, epilogue, constants)
    tactic = find_tactic(TACTICS, f"{kind.name}.cudnn.plan0")
    arrays = {f"c{i}": constant_from_torch(inputs[i])[0] for i in constants}
    return tactic, spec.with_layouts(tactic.layouts(spec)[0]), arrays


def _reason(
    name: str, kind: LayerKind, inputs: list[torch.Tensor], epilogue: str | None,
    constants: list[int],
) -> str | None:
    _, spec, arrays = _spec(kind, inputs, epilogue, constants)
    with real_gpu().backend.building():  # type: ignore[attr-defined]
        try:
            find_tactic(TACTICS, name).prepare(spec, BlobWeights(arrays))
        except Unprepared as error:
            return str(error)
    return None


def small() -> tuple[Any, LayerSpec, dict[str, Any], list[torch.Tensor]]:
    inputs = [rand(1, 64, 14, 14), rand(64, 64, 1, 1) / 8, rand(64, 1, 1).float()]
    return *_spec(window(1), inputs, "relu(add(i0,i1))", [1, 2]), inputs


def test_in_a_graph_and_on_memory_that_moves() -> None:
    """Two plans in a row; the first reads and the last writes memory of the caller."""
    backend = open_backend("cuda")
    tactic, spec, arrays, inputs = small()
    with backend.building():
        prepared = tactic.prepare(spec, BlobWeights(arrays))
    given, result = Buffer(spec.inputs[0], moves=True), Buffer(spec.outputs[0], moves=True)
    arena = backend.allocate(spec.outputs[0].size_bytes)
    middle = Buffer(spec.outputs[0], backend.address(arena))
    scratch = backend.allocate(prepared.workspace_bytes + 256)
    at = backend.address(scratch)
    constants = [Buffer(s, constant=c) for s, c in zip(spec.inputs, spec.constants, strict=True)]
    first = prepared.bind([given, *constants[1:]], [middle], at, None)
    second = prepared.bind([middle, *constants[1:]], [middle], at, None)
    third = prepared.bind([middle, *constants[1:]], [result], at, None)
    run = backend.plan_runner([first, second, third], [0, 0, 0], [(), (), ()])
    weight, bias = inputs[1].cuda().float(), inputs[2].cuda()
    stream = torch.cuda.Stream()
    for _ in range(5):
        x = torch.randn(1, 64, 14, 14, device="cuda").half()
        x = x.contiguous(memory_format=torch.channels_last)
        y = torch.full_like(x, float("nan"))
        torch.cuda.synchronize()
        given.move(x.data_ptr())
        result.move(y.data_ptr())
        run(stream.cuda_stream)
        stream.synchronize()
        want = x.float()
        for _ in range(3):
            want = torch.relu(torch.nn.functional.conv2d(want, weight) + bias).half().float()
        error = (y.float() - want).abs().max() / want.abs().max()
        assert error < 4e-3, error


LOADER = """
import pickle, sys
import numpy as np
assert "torch" not in sys.modules
from cuda_plain import run_loaded
run_loaded(*pickle.load(sys.stdin.buffer))
"""


def test_a_plan_is_loaded_by_a_process_without_torch_or_compilers(tmp_path: Path) -> None:
    """The blob is made here; the other process fails if it asks for a job."""
    tactic, spec, arrays, inputs = small()
    backend = open_backend("cuda")
    weights = BlobWeights(arrays)
    with backend.building():
        tactic.prepare(spec, weights)
    x = inputs[0].movedim(1, -1).contiguous().numpy()
    target = tmp_path / "result.npy"
    message = pickle.dumps((tactic.name, spec, arrays, weights.blobs, x, str(target)))
    support = Path(__file__).parents[3] / "support"
    script = f"import sys; sys.path.insert(0, {str(support)!r})" + LOADER
    done = subprocess.run(
        [sys.executable, "-c", script], input=message, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    want = torch.relu(
        torch.nn.functional.conv2d(inputs[0].float(), inputs[1].float()) + inputs[2]
    )
    got = torch.from_numpy(np.load(target).astype(np.float32)).movedim(-1, 1)
    assert (got - want).abs().max() / want.abs().max() < 2e-3


def test_plans_come_and_go_and_so_do_streams() -> None:
    """Hundreds of plans are loaded after streams that cuDNN ran on have been destroyed."""
    backend = open_backend("cuda")
    tactic, spec, arrays, _ = small()
    made = BlobWeights(arrays)
    with backend.building():
        tactic.prepare(spec, made)
    blocks = [backend.allocate(tensor.size_bytes) for tensor in (spec.inputs[0], spec.outputs[0])]
    inputs = [Buffer(spec.inputs[0], backend.address(blocks[0]))] + [
        Buffer(tensor, constant=name)
        for tensor, name in zip(spec.inputs[1:], spec.constants[1:], strict=True)
    ]
    outputs = [Buffer(spec.outputs[0], backend.address(blocks[1]))]
    kept: list[Any] = []
    for turn in range(10):
        stream = backend.new_stream()
        runs = []
        for _ in range(25):
            with backend.building():
                prepared = tactic.prepare(spec, BlobWeights(arrays, made.blobs))
            work = backend.allocate(prepared.workspace_bytes + 256)
            calls = prepared.bind(inputs, outputs, backend.address(work), stream)
            runs.append((backend.plan_runner([calls], [0], [()]), work))
        for run, _ in runs:
            for _ in range(3):
                run(stream.ptr)
        stream.synchronize()
        kept += runs[:: 7 + turn]
        del runs, stream, calls, run, prepared
        gc.collect()
    assert kept


class TwoConvolutions(torch.nn.Module):
    """Enough to be run by cuDNN."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(16, channels, 3, padding=1)
        self.second = torch.nn.Conv2d(channels, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Two convolutions."""
        return x + self.second(torch.relu(self.first(x)))


def test_converting_after_an_engine_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch2rt.backends.cuda.backend import CudaBackend

    every = CudaBackend.candidates

    def with_cudnn(
        self: CudaBackend, spec: LayerSpec, below: float = math.inf
    ) -> tuple[list[Tactic], list[str]]:
        """CuDNN's tactics alone where there are any: nothing else is compiled."""
        taken, refused = every(self, spec, below)
        return [tactic for tactic in taken if ".cudnn." in tactic.name] or taken, refused

    monkeypatch.setattr(CudaBackend, "candidates", with_cudnn)
    for channels in (64, 96):
        model = TwoConvolutions(channels).eval().cuda()
        x = torch.randn(2, 16, 28, 28, device="cuda")
        converted = torch2rt.convert(
            model, x, precision="fp16", timing_cache=tmp_path / "times.jsonl", progress=False
        )
        with torch.no_grad():
            for _ in range(4):
                error = relative_error(converted(x), model(x))
        assert error < NETWORK["fp16"]
        del converted, model
        gc.collect()
        torch.cuda.synchronize()


def test_a_plan_of_another_version_is_a_reason() -> None:
    tactic, spec, arrays, _ = small()
    backend = open_backend("cuda")
    weights = BlobWeights(arrays)
    with backend.building(), preparing_for(backend.device_object):
        tactic.prepare(spec, weights)
        broken = {key: blob[: len(blob) // 2] for key, blob in weights.blobs.items()}
        with pytest.raises(Unprepared, match="does not load the plan"):
            tactic.prepare(spec, BlobWeights(arrays, broken))


def test_plans_are_also_built_for_properties_of_a_gpu(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without a handle; how many it proposes either way is printed."""
    import cudnn

    properties = cudnn.create_device_properties(0).serialize()
    for case in CASES:
        kind, inputs, epilogue = layers()[case]
        tactic, spec, _ = _spec(kind, inputs, epilogue, [])
        description = tactic.graph(spec).description
        counts = [len(planned_graph(description, device).plans) for device in (0, properties)]
        with capsys.disabled():
            print(f"\n{case}: {counts[0]} plans for the GPU, {counts[1]} for its properties")
        assert min(counts) > 0
        job = PlanJob(description, 0, properties)
        assert len(job.run()) > 1000
        assert len(replace(job, device=0).run()) > 1000
