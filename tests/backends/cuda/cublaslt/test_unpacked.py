"""Products by weights stored in 8 bits, restored to float for the library."""

import numpy as np
import pytest
import torch
from cuda_testing import assert_refused, check_cuda_tactic, cuda_spec
from tactic_testing import DictWeights
from triton_stored_cases import stored_operands

from torch2rt.backends.cuda.restored import RestoredWeights, scale_index
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType

ALGO, APART = "matmul.cublaslt_unpacked.algo0", "matmul.cublaslt_unpacked.apart0"
BIASED = "add(mul(i0,i1),i2)"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("is_transposed", [True, False])
def test_restored_weights_give_the_products(dtype, is_transposed, library):
    kind = Matmul(transpose_b=is_transposed)
    x, w, scale, bias = stored_operands((2, 20), 24, 48, dtype=dtype, is_transposed=is_transposed)
    residual = torch.randn(2, 20, 24).to(dtype)
    for name, epilogue, extra, constants in (
        (ALGO, "mul(i0,i1)", [scale], [1, 2]),
        (ALGO, BIASED, [scale, bias], [1, 2, 3]),
        (ALGO, "add(add(mul(i1,i0),i2),i3)", [scale, bias, residual], [1, 2, 3]),
        (ALGO, "add(i1,mul(i0,i2))", [residual, scale], [1, 3]),
        (ALGO, f"gelu_tanh({BIASED})", [scale, bias], [1, 2, 3]),
        (APART, f"gelu({BIASED})", [scale, bias], [1, 2, 3]),
        (APART, f"add(relu({BIASED}),i3)", [scale, bias, residual], [1, 2, 3]),
    ):
        check_cuda_tactic(name, kind, [x, w, *extra], epilogue, constants=constants)
    check_cuda_tactic(ALGO, kind, [x / 50, w], constants=[1])
    check_cuda_tactic(
        ALGO, kind, [x, w, scale, bias], BIASED, constants=[1, 2, 3],
        pitched={"i0": 1, "o0": 1},
    )


def test_many_rows(library):
    x, w, scale, bias = stored_operands((515,), 592, 1024)
    check_cuda_tactic(
        APART, Matmul(transpose_b=True), [x, w, scale, bias], f"gelu({BIASED})",
        constants=[1, 2, 3],
    )


def test_what_is_left_to_others(library):
    kind = Matmul(transpose_b=True)
    x, w, scale, _ = stored_operands((40,), 24, 48)

    def refused(inputs, epilogue, constants, reason):
        assert_refused(ALGO, kind, inputs, epilogue, constants=constants, reason=reason)

    refused([x[:31], w, scale], "mul(i0,i1)", [1, 2], "31 rows, which wait for their weights")
    refused([x, w.half(), scale], "mul(i0,i1)", [1, 2], "not stored in 8 bits")
    refused([x, w, scale], "relu(mul(i0,i1))", [1, 2], "no epilogue relu(i0)")
    refused([x, w, scale], "mul(i0,i1)", [1], "no epilogue mul(i0,i1)")


@pytest.mark.parametrize(("epilogue", "found"), [
    ("mul(i0,i1)", 2), ("mul(mul(i0,i1),sigmoid(mul(i0,i1)))", 2), ("add(mul(i0,i2),i1)", 3),
    (None, None), ("add(i0,i1)", None), ("add(mul(i0,i1),i0)", None),
    ("add(mul(i0,i1),i1)", None), ("add(mul(i0,i1),mul(i0,i2))", None), ("mul(i0,0.5)", None),
])
def test_scales_are_found_where_every_product_has_them(epilogue, found):
    vectors = {"i1": torch.ones(8), "i2": torch.ones(8)}
    extra = [vector for name, vector in vectors.items() if name in (epilogue or "")]
    if epilogue == "add(mul(i0,i2),i1)":
        extra = [torch.ones(4, 8), torch.ones(8)]
    inputs = [torch.ones(4, 16).half(), torch.ones(8, 16).to(torch.int8), *extra]
    spec = cuda_spec(Matmul(transpose_b=True), inputs, epilogue, range(1, len(inputs)))
    assert scale_index(spec) == found


@pytest.mark.parametrize("scale", [
    torch.ones(4, 1), torch.ones(4, 8), torch.ones(8).half(),
])
def test_scales_of_rows_and_halves_are_none(scale):
    inputs = [torch.ones(4, 16).half(), torch.ones(8, 16).to(torch.int8), scale]
    spec = cuda_spec(Matmul(transpose_b=True), inputs, "mul(i0,i1)", [1, 2])
    assert scale_index(spec) is None


def test_weights_that_float16_does_not_hold_are_unprepared():
    arrays = {"w": np.full((2, 3), 127, np.int8), "s": np.array([1.0, 600.0], np.float32)}

    def restored(dtype):
        return RestoredWeights(DictWeights(arrays), "w", "s", True, dtype).array("w")

    assert restored(DType.FLOAT32)[:, 0].tolist() == [127.0, 76200.0]
    with pytest.raises(Unprepared, match="beyond the largest number of float16"):
        restored(DType.FLOAT16)
