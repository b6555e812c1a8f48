"""Products of float8 by cuBLASLt: columns scaled, bias and residual; what it is not asked for."""

import pytest
import torch
from cuda_emulator import EmulatedDevice
from cuda_testing import assert_refused, check_cuda_tactic, cuda_spec

from torch2rt.backends.cuda.cublaslt import binding
from torch2rt.backends.cuda.cublaslt.float8 import find_float8_gemm
from torch2rt.backends.cuda.cublaslt.problem import find_gemm
from torch2rt.backends.cuda.device import preparing_for
from torch2rt.backends.tactic import Refusal
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType

FAST, EXACT = "matmul.cublaslt_float8.fast", "matmul.cublaslt_float8.exact"
KIND = Matmul(transpose_b=True)
BIASED = "add(mul(i0,i1),i2)"


def float8s(*shape):
    return (torch.randn(shape) * 80).clamp(-448, 448).to(torch.float8_e4m3fn)


def operands(rows=(2, 9), n=32, k=48):
    """x, w, scales and a bias."""
    return [float8s(*rows, k), float8s(n, k), torch.rand(n) / k**0.5 / 1e3, torch.randn(n)]


@pytest.mark.parametrize("out", [DType.FLOAT16, DType.BFLOAT16])
@pytest.mark.parametrize("name", [FAST, EXACT])
def test_scales_bias_and_residual(name, out, library):
    x, w, scale, bias = operands()
    residual = torch.randn(2, 9, 32).to(getattr(torch, out.value))
    for epilogue, extra, constants in (
        ("mul(i0,i1)", [scale], [1, 2]),
        (BIASED, [scale, bias], [1, 2, 3]),
        (f"add({BIASED},i3)", [scale, bias, residual], [1, 2, 3]),
        ("add(mul(i0,i1),i2)", [torch.tensor([1e-4]), bias], [1, 2, 3]),
        ("mul(i0,0.0001)", [], [1]),
    ):
        check_cuda_tactic(
            name, KIND, [x, w, *extra], epilogue, constants=constants, out_dtype=out,
            tolerance=1e-2,
        )
    if hasattr(library, "calls"):
        assert {facts[25] for facts, _, _ in library.calls} == {int(name == FAST)}


def test_results_in_float32_and_pitched_operands(library):
    x, w, scale, bias = operands()
    check_cuda_tactic(
        FAST, KIND, [x, w, scale], "mul(i0,i1)", constants=[1, 2], out_dtype=DType.FLOAT32,
        tolerance=1e-2,
    )
    check_cuda_tactic(
        FAST, KIND, [x, w, scale, bias], BIASED, constants=[1, 2, 3], out_dtype=DType.FLOAT16,
        pitched={"i0": 1, "o0": 1}, tolerance=1e-2,
    )


@pytest.mark.gpu
def test_exact_sums_of_one_sign(library):
    x, w = ((448 * torch.rand(64, 4096)).to(torch.float8_e4m3fn) for _ in range(2))
    check_cuda_tactic(
        EXACT, KIND, [x, w, torch.full((64,), 1e-6)], "mul(i0,i1)", constants=[1, 2],
        out_dtype=DType.FLOAT32, tolerance=2e-2,
    )


def test_fast_sums_are_not_taken_for_weights_of_one_sign(library):
    x, w, scale, _ = operands(k=4096)
    w = w.float().abs().to(torch.float8_e4m3fn)
    given = {"constants": [1, 2], "out_dtype": DType.FLOAT16, "tolerance": 1e-2}
    with pytest.raises(AssertionError, match="4096 products of one sign"):
        check_cuda_tactic(FAST, KIND, [x, w, scale], "mul(i0,i1)", **given)
    check_cuda_tactic(EXACT, KIND, [x, w, scale], "mul(i0,i1)", **given)


@pytest.mark.parametrize(("change", "reason"), [
    ({"out_dtype": DType.FLOAT8_E4M3}, "to float8_e4m3fn"),
    ({"epilogue": f"gelu({BIASED})"}, "no epilogue gelu(add(i0,i2))"),
    ({"out_dtype": DType.FLOAT32}, "would be rounded to bfloat16"),
    ({"kind": Matmul(), "w": (48, 32)}, "not multiplied row by row"),
    ({"k": 40}, "no multiples of 16"),
    ({"n": 24}, "no multiples of 16"),
])
def test_what_is_left_to_others(change, reason, library):
    inputs = operands(n=change.get("n", 32), k=change.get("k", 48))
    if "w" in change:
        inputs[1] = float8s(*change["w"])
    assert_refused(
        FAST, change.get("kind", KIND), inputs, change.get("epilogue", BIASED), reason=reason,
        constants=[1, 2, 3], out_dtype=change.get("out_dtype", DType.FLOAT16),
    )


def test_products_of_floats_are_no_products_of_float8(library):
    halves = [torch.randn(8, 16).half(), torch.randn(16, 16).half()]
    assert_refused(FAST, KIND, halves, reason="float16 times float16", constants=[1])
    spec = cuda_spec(KIND, operands()[:2], None, [1], DType.FLOAT32)
    answer = find_gemm(spec)
    assert isinstance(answer, Refusal)
    assert "float8_e4m3fn" in answer.reason


class Device(EmulatedDevice):
    def __init__(self, capability):
        super().__init__()
        self.capability = capability


@pytest.mark.parametrize(("capability", "version", "reason"), [
    ((8, 0), 130200, "before sm_89"), ((8, 9), 130200, "elsewhere than on sm_90"),
    ((10, 0), 130200, "elsewhere than on sm_90"), ((9, 0), 120800, "before 12.9"),
    ((9, 0), 120900, ""),
])
def test_columns_are_scaled_where_the_library_can(capability, version, reason, monkeypatch):
    monkeypatch.setattr(binding, "version", lambda: version)
    spec = cuda_spec(KIND, operands(), BIASED, [1, 2, 3], DType.FLOAT16)
    with preparing_for(Device(capability)):
        answer = find_float8_gemm(spec, True)
    assert isinstance(answer, Refusal) == bool(reason)
    assert not reason or reason in answer.reason


def test_sums_and_scales_are_different_problems(monkeypatch):
    monkeypatch.setattr(binding, "version", lambda: 130200)
    x, w, scale, bias = operands()

    def digest(has_fast_sums, epilogue, extra):
        constants = range(1, 2 + len(extra))
        spec = cuda_spec(KIND, [x, w, *extra], epilogue, constants, DType.FLOAT16)
        with preparing_for(Device((9, 0))):
            return find_float8_gemm(spec, has_fast_sums).digest

    assert len({
        digest(True, BIASED, [scale, bias]), digest(False, BIASED, [scale, bias]),
        digest(True, "add(i0,i1)", [bias]), digest(True, "mul(i0,i1)", [scale]),
    }) == 4
