"""The run time on a real GPU: launches, graphs, moving bindings, streams, threads, arrays."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import torch2rt
from torch2rt.backends.buffer import Buffer
from torch2rt.backends.devices import open_backend
from torch2rt.backends.spec import TensorSpec
from torch2rt.errors import DeviceError, InputError
from torch2rt.network.dtype import DType

pytestmark = pytest.mark.gpu

COUNT = 100_000
SPEC = TensorSpec((COUNT,), DType.FLOAT32)
SOURCE = """
extern "C" __global__ void scaled_sum(
    const float* x, const float* y, float* out, float scale, int count
) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    if (i < count) out[i] = x[i] * scale + y[i];
}
"""


def launch(kernel: Any, x: int, y: int, out: int, scale: float, overlaps: bool = True) -> Any:
    from torch2rt.backends.cuda.launch import F32, I32, In, Launch, Out

    return Launch(
        kernel, (-(-COUNT // 256), 1, 1), (256, 1, 1),
        [In(x), In(y), Out(out), F32(scale), I32(COUNT)], overlaps=overlaps,
    )


@pytest.fixture
def backend() -> Any:
    return open_backend("cuda")


@pytest.fixture
def kernel(backend: Any) -> Any:
    with backend.building():
        image = backend.device_object.compile_cpp(SOURCE, "scaled_sum").run()
        return backend.device_object.load(image, "scaled_sum")


def moving() -> Buffer:
    return Buffer(SPEC, moves=True)


def test_a_graph_follows_inputs_and_outputs_that_move(backend: Any, kernel: Any) -> None:
    """Three launches, the first and the last on memory of the caller, replayed on new memory."""
    from torch2rt.backends.cuda.launch import KernelCall

    x, out = moving(), moving()
    arena = backend.allocate(COUNT * 4)
    middle = Buffer(SPEC, backend.address(arena))
    calls = [
        KernelCall(launch(kernel, 0, 0, 0, 2.0), [x], [middle], 0, None),
        KernelCall(launch(kernel, 0, 0, 0, 1.0), [middle], [middle], 0, None),
        KernelCall(launch(kernel, 0, 1, 0, 1.0), [middle, x], [out], 0, None),
    ]
    run = backend.plan_runner([[(call, ())] for call in calls], [0, 0, 0], [(), (), ()])
    stream = torch.cuda.Stream()
    for _ in range(6):
        tensor = torch.randn(COUNT, device="cuda")
        result = torch.full_like(tensor, float("nan"))
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            x.move(tensor.data_ptr())
            out.move(result.data_ptr())
            run(stream.cuda_stream)
        stream.synchronize()
        assert torch.allclose(result, tensor * 7, rtol=1e-6)


def test_branches_on_streams_wait_for_each_other(backend: Any, kernel: Any) -> None:
    """A diamond many times over: any missed edge gives a wrong sum sooner or later."""
    from torch2rt.backends.cuda.launch import KernelCall

    memory = [backend.allocate(COUNT * 4) for _ in range(4)]
    a, b, c, d = (Buffer(SPEC, backend.address(block)) for block in memory)
    steps, streams, waits = [], [], []
    for index in range(20):
        steps += [
            KernelCall(launch(kernel, 0, 0, 0, 0.0), [a], [b], 0, None),  # b = a
            KernelCall(launch(kernel, 0, 0, 0, 1.0), [a], [c], 0, None),  # c = 2a
            KernelCall(launch(kernel, 0, 1, 0, 1.0), [b, c], [d], 0, None),  # d = 3a
            KernelCall(launch(kernel, 0, 0, 0, -2.0 / 3.0), [d], [a], 0, None),  # a = a
        ]
        first = 4 * index
        streams += [0, 1, 0, 0]
        waits += [(), (first - 1,) if index else (), (first + 1,), ()]
    run = backend.plan_runner([[(step, ())] for step in steps], streams, waits)
    start = np.random.default_rng(0).random(COUNT, np.float32)
    for _ in range(5):
        backend.upload_bytes(a.address, start)
        run(0)
        got = backend.download_bytes(a.address, COUNT * 4).view(np.float32)
        np.testing.assert_allclose(got, start, rtol=1e-4)


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)
    ).cuda()


@pytest.fixture(scope="module")
def engine_module() -> Any:
    torch.backends.cuda.matmul.allow_tf32 = False
    net = model()
    return net, torch2rt.convert(net, torch.randn(16, 32, device="cuda"), progress=False)


def same(got: torch.Tensor, want: torch.Tensor) -> None:
    assert torch.allclose(got, want, atol=1e-5, rtol=1e-4), float((got - want).abs().max())


def test_a_module_runs_on_torchs_current_stream(engine_module: Any) -> None:
    """Work queued before feeds it, work queued after reads its result, without synchronising."""
    net, rt = engine_module
    stream = torch.cuda.Stream()
    big = torch.randn(4096, 4096, device="cuda")
    x = torch.randn(16, 32, device="cuda")
    torch.cuda.synchronize()
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(10):
            big = (big @ big).clamp(-1, 1)  # keeps the stream busy
            fed = x + big[:16, :32]
            doubled = rt(fed) * 2
            want = net(fed) * 2
    stream.synchronize()
    same(doubled, want)


def test_outputs_are_new_tensors(engine_module: Any) -> None:
    net, rt = engine_module
    inputs = [torch.randn(16, 32, device="cuda") for _ in range(5)]
    outputs = [rt(x) for x in inputs]
    with torch.no_grad():
        for x, y in zip(inputs, outputs, strict=True):
            same(y, net(x))


def test_threads_on_streams_of_their_own(engine_module: Any) -> None:
    net, rt = engine_module
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            generator = torch.Generator("cuda").manual_seed(seed)
            stream = torch.cuda.Stream()
            with torch.no_grad(), torch.cuda.stream(stream):
                for _ in range(30):
                    x = torch.randn(16, 32, device="cuda", generator=generator)
                    y = rt(x)
                    stream.synchronize()
                    same(y, net(x))
        except BaseException as error:  # raised again in the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_wrong_device_is_named(engine_module: Any) -> None:
    _, rt = engine_module
    with pytest.raises(InputError, match=r"wrong device.*cuda:0.*cpu"):
        rt(torch.randn(16, 32))
    assert rt.to("cuda") is rt
    with pytest.raises(DeviceError, match="built for another device"):
        rt.cpu()


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(DeviceError, match=r"cuda:99.*this process sees"):
        open_backend("cuda:99")


def test_arrays_of_any_kind(engine_module: Any) -> None:
    import cupy

    net, rt = engine_module
    x = torch.randn(16, 32, device="cuda")
    with torch.no_grad():
        want = net(x)
    name = rt.engine.bindings.inputs[0].name
    for value in (cupy.from_dlpack(x), x, x.cpu().numpy()):
        (got,) = rt.engine.run({name: value}).values()
        assert isinstance(got, np.ndarray) is isinstance(value, np.ndarray)
        same(torch.as_tensor(got, device="cuda"), want)
    with pytest.raises(InputError, match="wrong dtype"):
        rt.engine.run({name: x.double()})


def test_a_saved_engine_runs_without_torch_or_a_compiler(
    engine_module: Any, tmp_path: Path
) -> None:
    net, rt = engine_module
    path = tmp_path / "net.engine"
    rt.save(path)
    x = torch.randn(16, 32, device="cuda")
    np.save(tmp_path / "x.npy", x.cpu().numpy())
    code = f"""
import sys
for name in ("torch", "triton"):
    sys.modules[name] = None
from torch2rt.backends.cuda import nvrtc
def refuse(*arguments):
    raise AssertionError("compiled at load")
nvrtc.compile_cubin = refuse
import numpy as np
from torch2rt.engine.engine import Engine
engine = Engine.load({str(path)!r})
x = np.load({str(tmp_path / "x.npy")!r})
for _ in range(3):
    (y,) = engine.run({{engine.bindings.inputs[0].name: x}}).values()
np.save({str(tmp_path / "y.npy")!r}, y)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    with torch.no_grad():
        same(torch.from_numpy(np.load(tmp_path / "y.npy")).cuda(), net(x))
    loaded = torch2rt.load(path)
    with torch.no_grad():
        same(loaded(x), net(x))


def test_timing_tells_slow_from_fast(backend: Any, kernel: Any) -> None:
    from torch2rt.backends.cuda.launch import KernelCall

    blocks = [backend.allocate(COUNT * 4) for _ in range(2)]
    x, y = (Buffer(SPEC, backend.address(block)) for block in blocks)

    def calls(count: int) -> list[Any]:
        return [
            (KernelCall(launch(kernel, 0, 0, 0, 0.0), [x], [y], 0, None), ())
            for _ in range(count)
        ]

    once, often = backend.time_calls_us([calls(1), calls(8)], 5.0)
    assert 0.5 < once < 20.0
    assert 4.0 < often / once < 10.0
    cold = backend.time_calls_us([calls(1)], 5.0, [[blocks[0]]])[0]
    assert 0.5 < cold < 40.0
