"""CuDNN's convolutions of bytes against the reference: interpreted here, and by cuDNN on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from cuda_testing import TACTICS, TestedDevice, assert_refused, check_cuda_tactic, cuda_spec
from cudnn_interpreter import interpreted_plans
from triton_byte_cases import HALF_RESIDUAL_BYTES, RESIDUAL_BYTES, SIGNED_BYTES, SUM, operands

from torch2rt.backends.backend import find_tactic
from torch2rt.backends.cuda.cudnn import binding, graph
from torch2rt.backends.cuda.cudnn.tactic import CudnnTactic
from torch2rt.layers.convolution import Convolution
from torch2rt.network.dtype import DType

NAME = "convolution.cudnn.plan0"
FLIPS = 2e-3


@pytest.fixture(autouse=True)
def _plans(cuda_device: TestedDevice, request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("gpu") is not None:
        yield
    else:
        with interpreted_plans():
            yield


def window(size: int, stride: int = 1) -> Convolution:
    return Convolution((stride,) * 2, (size // 2,) * 2, (size // 2,) * 2, (1, 1))


def inputs_of(epilogue: str, size: int, stride: int, residual: torch.dtype) -> list[torch.Tensor]:
    result = (2, 48, 8 // stride, 8 // stride)
    return operands(
        (2, 32, 8, 8), (48, 32, size, size), (48, 1, 1), epilogue, result, residual
    )


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize(("epilogue", "residual"), [
    (SIGNED_BYTES, torch.int8), (RESIDUAL_BYTES, torch.int8),
    (HALF_RESIDUAL_BYTES, torch.float16),
])
def test_bytes(size: int, stride: int, epilogue: str, residual: torch.dtype) -> None:
    check_cuda_tactic(
        NAME, window(size, stride), inputs_of(epilogue, size, stride, residual), epilogue,
        constants=[1, 2, 3], out_dtype=DType.INT8, tolerance=FLIPS,
    )


@pytest.mark.parametrize("out", [DType.FLOAT16, DType.FLOAT32])
def test_bytes_to_floats(out: DType) -> None:
    epilogue = f"relu({SUM})"
    check_cuda_tactic(
        NAME, window(3), inputs_of(epilogue, 3, 1, torch.int8), epilogue, constants=[1, 2, 3],
        out_dtype=out,
    )


def test_sums_of_bytes_are_refused() -> None:
    inputs = operands((2, 32, 8, 8), (48, 32, 1, 1), (48, 1, 1), None, ())
    assert_refused(NAME, window(1), inputs, constants=[1], out_dtype=DType.INT32,
                   reason="an operand of int32")


def test_few_channels_of_bytes_are_refused() -> None:
    epilogue = SIGNED_BYTES
    inputs = operands((2, 24, 8, 8), (48, 24, 1, 1), (48, 1, 1), epilogue, ())
    assert_refused(NAME, window(1), inputs, epilogue, constants=[1, 2, 3], out_dtype=DType.INT8,
                   reason="no multiple of 16")


def test_bytes_in_cudnns_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("cudnn", reason="nvidia-cudnn-frontend is not installed")
    monkeypatch.setattr(graph, "cudnn", lambda: package)
    monkeypatch.setattr(binding, "cudnn", lambda: package)
    inputs = inputs_of(RESIDUAL_BYTES, 3, 1, torch.int8)
    spec = cuda_spec(window(3), inputs, RESIDUAL_BYTES, [1, 2, 3], DType.INT8)
    tactic = find_tactic(TACTICS, NAME)
    assert isinstance(tactic, CudnnTactic)
    description = tactic.graph(spec.with_layouts(tactic.layouts(spec)[0])).description
    built = graph._graph(description, None)
    assert built.find_tensor(1).data_type is package.data_type.INT8
    assert built.find_tensor(description.output_uid).data_type is package.data_type.INT8
    assert built.nodes[0].compute_data_type is package.data_type.INT32
    assert [node.params.get("mode") for node in built.nodes[1:]] == [
        "mul", "add", "mul", "add", "relu", "mul",
    ]
