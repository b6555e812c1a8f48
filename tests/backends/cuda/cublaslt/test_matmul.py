"""cuBLASLt's products agree with the reference; what it cannot do is refused."""

import gc

import numpy as np
import pytest
import torch
from cuda_testing import check_cuda_tactic, cuda_spec

from torch2rt.backends.backend import find_tactic, find_tactics
from torch2rt.backends.cuda.constants import convert, widen
from torch2rt.backends.cuda.cublaslt import binding
from torch2rt.backends.cuda.cublaslt.algorithms import read_algorithm
from torch2rt.backends.cuda.cublaslt.problem import find_gemm
from torch2rt.backends.cuda.libraries import LibraryMissing
from torch2rt.backends.tactic import Refusal, Unprepared
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType

TACTIC = "matmul.cublaslt.algo0"
DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def randn(*shape, dtype=torch.float16):
    return (torch.randn(shape) / 4).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("a", "b", "options"),
    [
        ((48, 32), (32, 24), {}),
        ((48, 32), (24, 32), {"transpose_b": True}),
        ((32, 48), (32, 24), {"transpose_a": True}),
        ((32, 48), (24, 32), {"transpose_a": True, "transpose_b": True}),
        ((3, 5, 32), (24, 32), {"transpose_b": True}),
        ((2, 3, 16, 8), (2, 3, 8, 24), {}),
        ((2, 3, 16, 8), (8, 24), {}),
        ((16, 8), (5, 8, 24), {}),
        ((2, 1, 16, 8), (2, 1, 24, 8), {"transpose_b": True}),
        ((2, 8, 16), (2, 8, 24), {"transpose_a": True}),
        ((1, 32), (8, 32), {"transpose_b": True}),
    ],
)
def test_products(a, b, options, dtype, library):
    check_cuda_tactic(TACTIC, Matmul(**options), [randn(*a, dtype=dtype), randn(*b, dtype=dtype)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_bias_residual_scale_and_gelu(dtype, library):
    a, b = randn(2, 9, 32, dtype=dtype), randn(16, 32, dtype=dtype)
    bias, residual = randn(16, dtype=dtype).float(), randn(2, 9, 16, dtype=dtype)
    for epilogue, extra, constants in (
        ("add(i0,i1)", [bias], [1, 2]),
        ("add(i0,i1)", [residual], [1]),
        ("add(add(i0,i1),i2)", [bias, residual], [1, 2]),
        ("add(i1,add(mul(i0,0.125),i2))", [residual, bias], [1, 3]),
        ("gelu_tanh(add(i0,i1))", [bias], [1, 2]),
        ("gelu_tanh(i0)", [], []),
        ("div(i0,8.0)", [], []),
    ):
        check_cuda_tactic(
            TACTIC, Matmul(transpose_b=True), [a, b, *extra], epilogue, constants=constants
        )


def test_results_in_float32_and_rounded_operands(library):
    a, b, bias = randn(24, 32), randn(16, 32), torch.randn(16)
    kind = Matmul(transpose_b=True)
    check_cuda_tactic(
        TACTIC, kind, [a, b, bias], "add(i0,i1)", constants=[1, 2], out_dtype=DType.FLOAT32
    )
    kind = Matmul(transpose_b=True, tf32=True)
    check_cuda_tactic(TACTIC, kind, [a.float(), b.float()], tolerance=2e-3)
    if hasattr(library, "calls"):
        assert [facts["mode"] for facts, _, _ in library.calls][-1] == 77


@pytest.mark.parametrize(
    ("a", "b", "pitched"),
    [
        ((9, 32), (16, 32), {"i0": 1}),
        ((9, 32), (16, 32), {"o0": 1}),
        ((2, 9, 32), (16, 32), {"i0": 1, "o0": 1}),
        ((2, 9, 32), (2, 16, 32), {"i0": 2, "i1": 1}),
    ],
)
def test_operands_inside_wider_tensors(a, b, pitched, library):
    check_cuda_tactic(TACTIC, Matmul(transpose_b=True), [randn(*a), randn(*b)], pitched=pitched)


def test_every_algorithm_is_a_tactic_and_those_that_are_not_there_are_unprepared(library):
    names = [n for n in find_tactics("torch2rt.backends.cuda.tactics") if ".cublaslt." in n]
    assert names == [
        *[f"matmul.cublaslt.apart{index}" for index in range(3)],
        *[f"matmul.cublaslt.algo{index}" for index in range(6)],
    ]
    inputs = [randn(16, 32), randn(32, 8)]
    check_cuda_tactic("matmul.cublaslt.algo0", Matmul(), inputs)
    if hasattr(library, "calls"):
        check_cuda_tactic("matmul.cublaslt.algo1", Matmul(), inputs)
        assert library.calls[-1][1:] == (101, 4096)
        with pytest.raises(AssertionError, match="proposes 2 algorithms"):
            check_cuda_tactic("matmul.cublaslt.algo2", Matmul(), inputs)


def test_descriptors_are_freed(library):
    if not hasattr(library, "objects"):
        pytest.skip("the library itself does not count its descriptors")
    prepared = check_cuda_tactic(TACTIC, Matmul(), [randn(16, 32), randn(32, 8)])
    assert library.objects
    del prepared
    gc.collect()
    assert not library.objects


def refusal(kind, inputs, epilogue=None, constants=()):
    answer = find_gemm(cuda_spec(kind, inputs, epilogue, constants))
    return answer.reason if isinstance(answer, Refusal) else ""


def test_refusals():
    a, b, bias = randn(8, 16), randn(16, 8), torch.randn(8)
    assert "relu" in refusal(Matmul(), [a, b], "relu(i0)")
    assert "gelu(i0)" in refusal(Matmul(), [a, b], "gelu(i0)")
    assert "epilogue input" in refusal(Matmul(), [a, b, bias], "add(i0,i1)")
    assert "otherwise than once" in refusal(Matmul(), [a, b], "add(i0,i0)")
    assert "a residual" in refusal(Matmul(), [a, b, torch.randn(8, 8)], "add(i0,i1)")
    assert "float64" in refusal(Matmul(), [a.double(), b.double()])
    assert "one distance" in refusal(Matmul(), [randn(2, 3, 4, 8), randn(3, 8, 8)])


def test_without_the_library_it_is_refused(monkeypatch):
    def nothing():
        raise LibraryMissing("libcublasLt.so.13 was not found")

    monkeypatch.setattr(binding, "library", nothing)
    tactic = find_tactic("torch2rt.backends.cuda.tactics", TACTIC)
    answer = tactic.supports(cuda_spec(Matmul(), [randn(8, 8), randn(8, 8)]))
    assert isinstance(answer, Refusal)
    assert "libcublasLt" in answer.reason


def test_the_same_product_is_asked_for_once():
    def digest(bias, residual):
        inputs = [randn(8, 16), randn(8, 16), *bias, *residual]
        terms = "add(add(i0,i1),i2)"
        constants = [1, *([2] if bias and bias[0].ndim == 1 else [3])]
        return find_gemm(cuda_spec(Matmul(transpose_b=True), inputs, terms, constants)).digest

    bias, residual = randn(8), randn(8, 8)
    assert digest([bias], [residual]) == digest([residual], [bias])


def test_a_bias_is_rounded_as_eager_rounds_it(library):
    for dtype in DTYPES[:2]:
        inputs = [randn(8, 16, dtype=dtype), randn(16, 8, dtype=dtype), torch.full((8,), 0.1)]
        check_cuda_tactic(TACTIC, Matmul(), inputs, "add(i0,i1)", constants=[1, 2])


def test_conversions_round_to_nearest():
    values = np.array([1.0, -0.5, 65504.0, np.inf, 0.1], np.float32)
    half = convert(values, DType.FLOAT32, DType.FLOAT16)
    assert np.array_equal(half, values.astype(np.float16))
    bits = convert(values, DType.FLOAT32, DType.BFLOAT16)
    expected = torch.from_numpy(values).bfloat16()
    assert bits.tolist() == expected.view(torch.uint16).tolist()
    assert np.array_equal(widen(bits, DType.BFLOAT16), expected.float().numpy())
    assert convert(bits, DType.BFLOAT16, DType.FLOAT32).tolist() == expected.float().tolist()


@pytest.mark.parametrize("blob", [b"", b"x" * 71, b"x" * 144])
def test_blobs_that_are_none_are_refused(blob):
    with pytest.raises(Unprepared):
        read_algorithm(blob, 1)
