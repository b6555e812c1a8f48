"""Products by weights that are stored in 8 bits, compiled and unpacked, against the reference."""

from __future__ import annotations

import pytest
import torch
from needs import needs_onednn
from tactic_testing import BACKEND, check_tactic, make_spec, tactic_named

from torch2rt.backends.cpu.jit import jit_unavailable
from torch2rt.backends.cpu.jit.compiler import NARROW
from torch2rt.backends.cpu.stored_weights import plan
from torch2rt.backends.tactic import Refusal
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType

COMPILED = "matmul.jit.stored"
UNPACKED = ["matmul.onednn.unpacked", "matmul.onednn.unpacked_inner_product"]
BIASED = "add(mul(i0,i1),i2)"
needs_jit = pytest.mark.skipif(jit_unavailable() is not None, reason=str(jit_unavailable()))


def operands(
    *rows: int, k: int, n: int, dtype: torch.dtype = torch.float32, is_transposed: bool = True,
) -> list[torch.Tensor]:
    """x [*rows, k], w, scales and bias [n]."""
    generator = torch.Generator().manual_seed(k * n)
    w = torch.randint(-127, 128, (n, k), generator=generator).to(torch.int8)
    scale = (0.5 + torch.rand(n, generator=generator)) / (74 * k**0.5)
    return [
        torch.randn(*rows, k, generator=generator).to(dtype),
        w if is_transposed else w.T.contiguous(), scale, torch.randn(n, generator=generator),
    ]


@needs_jit
@pytest.mark.parametrize(("rows", "k", "n"), [
    ((1,), 32, 64), ((1,), 37, 100), ((2,), 16, 3), ((3, 1), 18, 130), ((1, 4), 64, 65),
    ((6,), 20, 48), ((7,), 33, 64), ((8,), 48, 17), ((15,), 8, 192), ((2, 16), 31, 79),
    ((1,), 1, 1), ((5,), 2, 64),
])
def test_rows_and_channels_of_all_sizes(rows: tuple[int, ...], k: int, n: int) -> None:
    check_tactic(
        COMPILED, Matmul(transpose_b=True), operands(*rows, k=k, n=n), f"gelu({BIASED})",
        constants=[1, 2, 3],
    )


@needs_jit
@pytest.mark.parametrize("epilogue", [
    "mul(i0,i1)", "relu(add(mul(i0,i1),i2))", "silu(add(mul(i0,i1),i2))",
    "add(add(mul(i0,i1),i2),i3)", "mul(add(mul(i0,i1),i2),sigmoid(i3))",
])
@pytest.mark.parametrize("n", [64, 75])
def test_epilogues(epilogue: str, n: int) -> None:
    inputs = [*operands(2, k=24, n=n), torch.randn(2, n)]
    count = 2 + sum(f"i{index}" in epilogue for index in (1, 2, 3))
    (prepared,) = check_tactic(
        COMPILED, Matmul(transpose_b=True), inputs[:count], epilogue,
        constants=range(1, min(count, 4)),
    )
    assert prepared.may_overwrite == ((4,) if count > 4 else ())


@needs_jit
@pytest.mark.parametrize(("rows", "dtype"), [
    (1, torch.float32), (3, torch.float32), (7, torch.float32), (2, torch.bfloat16),
])
@pytest.mark.parametrize("n", [32, 45])
def test_vectors_of_8(
    rows: int, dtype: torch.dtype, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "machine", lambda: NARROW)
    inputs = [*operands(rows, k=24, n=n, dtype=dtype), torch.randn(rows, n).to(dtype)]
    check_tactic(
        COMPILED, Matmul(transpose_b=True), inputs, f"add(gelu({BIASED}),i3)",
        constants=[1, 2, 3],
    )


@needs_jit
def test_one_scale_and_a_bare_product() -> None:
    x, w, *_ = operands(3, k=40, n=80)
    check_tactic(COMPILED, Matmul(transpose_b=True), [x, w], constants=[1])
    check_tactic(COMPILED, Matmul(transpose_b=True), [x, w, torch.tensor(0.01)], "mul(i0,i1)",
                 constants=[1, 2])
    check_tactic(COMPILED, Matmul(transpose_b=True), [x, w, torch.randn(1)], "mul(i0,i1)",
                 constants=[1])


@needs_jit
@pytest.mark.parametrize("out", [DType.BFLOAT16, DType.FLOAT32])
@pytest.mark.parametrize("n", [64, 70])
def test_bfloat16(n: int, out: DType) -> None:
    inputs = [*operands(3, k=48, n=n, dtype=torch.bfloat16), torch.randn(3, n).bfloat16()]
    check_tactic(
        COMPILED, Matmul(transpose_b=True), inputs, "add(gelu(add(mul(i0,i1),i2)),i3)",
        constants=[1, 2, 3], out_dtype=out, tolerance=5e-3 if out is DType.BFLOAT16 else 2e-5,
    )


@needs_jit
def test_weights_with_output_channels_last() -> None:
    inputs = operands(4, k=24, n=72, is_transposed=False)
    check_tactic(COMPILED, Matmul(), inputs, BIASED, constants=[1, 2, 3])


@needs_onednn
@pytest.mark.parametrize("name", UNPACKED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_transposed", [True, False])
def test_unpacked(name: str, dtype: torch.dtype, is_transposed: bool) -> None:
    inputs = operands(40, k=24, n=72, dtype=dtype, is_transposed=is_transposed)
    check_tactic(
        name, Matmul(transpose_b=is_transposed), inputs, f"gelu({BIASED})", constants=[1, 2, 3]
    )


@needs_jit
@pytest.mark.parametrize(("change", "reason"), [
    ({"rows": 33}, "not 1 to 32 rows"),
    ({"rows": 0}, "not 1 to 32 rows"),
    ({"dtype": torch.float16}, "written for float32 and bfloat16"),
    ({"dtype": torch.bfloat16, "k": 21}, "the input channels are no multiple of"),
    ({"epilogue": "sin(add(mul(i0,i1),i2))"}, "the kernels have no sin"),
    ({"epilogue": f"add({BIASED},i3)"}, "epilogue input 4 broadcasts in another way"),
    ({"constants": [2, 3]}, "its second operand is no constant matrix"),
    ({"float_weight": True}, "its weights are not stored in 8 bits"),
    ({"kind": Matmul(transpose_a=True, transpose_b=True)}, "its first operand is transposed"),
])
def test_refusals(change: dict, reason: str) -> None:
    rows, k = change.get("rows", 4), change.get("k", 4)
    x, w, *others = operands(rows, k=k, n=8, dtype=change.get("dtype", torch.float32))
    if change.get("float_weight"):
        w = w.to(x.dtype)
    epilogue = change.get("epilogue", BIASED)
    inputs = [x, w, *others, torch.randn(rows, 1)][: 5 if "i3" in epilogue else 4]
    spec = make_spec(
        change.get("kind", Matmul(transpose_b=True)), inputs, epilogue,
        change.get("constants", [1, 2, 3]),
    )
    refusal = BACKEND.tactics[COMPILED].supports(spec)
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason


@pytest.mark.parametrize("name", [
    "matmul.onednn.packed", "matmul.onednn.inner_product", "matmul.torch.mkldnn",
])
def test_tactics_of_floats_do_not_take_them(name: str) -> None:
    spec = make_spec(Matmul(transpose_b=True), operands(4, k=24, n=8), BIASED, [1, 2, 3])
    assert isinstance(tactic_named(name).supports(spec), Refusal)


def test_without_an_openmp_run_time_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "openmp_unavailable", lambda: "there is no libgomp")
    monkeypatch.setattr(plan, "jit_unavailable", lambda: None)
    spec = make_spec(Matmul(transpose_b=True), operands(4, k=24, n=8), BIASED, [1, 2, 3])
    assert BACKEND.tactics[COMPILED].supports(spec) == Refusal("there is no libgomp")
