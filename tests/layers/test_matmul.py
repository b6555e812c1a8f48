import pytest
import torch
from layer_testing import check_rule
from torch import nn

from torch2rt.layers.matmul import Matmul
from torch2rt.network.dim import symbol
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape)


CASES = {
    "linear": (nn.Linear(4, 5), [(2, 4)], True),
    "linear of a sequence": (nn.Linear(4, 5, bias=False), [(2, 3, 4)], True),
    "linear of a vector": (nn.Linear(4, 5), [(4,)], False),
    "linear with a vector": (lambda x, w: nn.functional.linear(x, w), [(2, 4), (4,)], True),
    "matrices": (lambda a, b: a @ b, [(2, 4), (4, 3)], True),
    "stacks": (lambda a, b: torch.bmm(a, b), [(2, 3, 4), (2, 4, 5)], True),
    "broadcast": (lambda a, b: a @ b, [(2, 1, 3, 4), (5, 4, 6)], True),
    "stack and vector": (lambda a, b: a @ b, [(2, 3, 4), (4,)], True),
    "vector and stack": (lambda a, b: a @ b, [(3,), (5, 3, 4)], False),
    "vectors": (lambda a, b: a @ b, [(4,), (4,)], False),
    "dot": (lambda a, b: torch.dot(a, b) + torch.vdot(b, a), [(4,), (4,)], False),
    "mm": (lambda a, b: torch.mm(a, b), [(2, 4), (4, 3)], True),
    "mv": (lambda a, b: torch.mv(a, b), [(2, 4), (4,)], True),
    "inner": (lambda a, b: torch.inner(a, b), [(2, 3, 4), (5, 4)], False),
    "addmm": (lambda c, a, b: torch.addmm(c, a, b), [(3,), (2, 4), (4, 3)], False),
    "addmm scaled": (
        lambda c, a, b: torch.addmm(c, a, b, beta=2, alpha=0.5), [(2, 3), (2, 4), (4, 3)], True
    ),
    "addmm without addend": (
        lambda c, a, b: torch.addmm(c, a, b, beta=0), [(2, 3), (2, 4), (4, 3)], False
    ),
    "addmv": (lambda c, a, b: torch.addmv(c, a, b), [(2,), (2, 4), (4,)], True),
    "baddbmm": (
        lambda c, a, b: torch.baddbmm(c, a, b, beta=0.5), [(2, 1, 5), (2, 3, 4), (2, 4, 5)], True
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rule_matches_eager(name: str) -> None:
    model, shapes, dynamic = CASES[name]
    check_rule(model, *(random(*shape) for shape in shapes), dynamic=dynamic)


def test_linear_is_one_product_and_one_addition() -> None:
    network = check_rule(nn.Linear(4, 5), random(2, 3, 4), kinds={"matmul", "pointwise"})
    assert [layer.kind.name for layer in network.layers] == ["matmul", "pointwise"]
    assert network.layers[0].kind == Matmul(transpose_b=True)


def test_addend_is_ignored_where_beta_is_zero() -> None:
    check_rule(
        lambda c, a, b: torch.addmm(c, a, b, beta=0),
        torch.full((2, 3), torch.nan), random(2, 4), random(4, 3), kinds={"matmul"},
    )


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_transposes(transpose_a: bool, transpose_b: bool) -> None:
    a, b = random(2, 3, 4), random(2, 4, 5)
    kind = Matmul(transpose_a, transpose_b)
    stored = [a.mT if transpose_a else a, b.mT if transpose_b else b]
    (got,) = kind.reference(stored)
    torch.testing.assert_close(got, a @ b)
    types = [TensorType(tuple(x.shape), DType.FLOAT32) for x in stored]
    assert kind.infer(types)[0].shape == (2, 3, 5)
    assert kind.flops(types, kind.infer(types)) == 2 * 2 * 3 * 4 * 5


def test_integers_stay_exact() -> None:
    check_rule(lambda a, b: a @ b, torch.full((2, 3), 2**53 + 1), torch.eye(3).long())


def test_symbolic_batches_broadcast() -> None:
    a = TensorType((symbol("n"), 1, 3, 4), DType.FLOAT32)
    b = TensorType((7, 4, symbol("m")), DType.FLOAT32)
    assert str(Matmul().infer([a, b])[0]) == "float32[n,7,3,m]"


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [((2, 3), (4, 5), "inner sizes 3 and 4"), ((3,), (3, 2), "two axes"),
     ((2, 3, 4), (3, 4, 5), "do not broadcast")],
)
def test_inputs_that_do_not_fit_are_refused(
    a: tuple[int, ...], b: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Matmul().infer([TensorType(a, DType.FLOAT32), TensorType(b, DType.FLOAT32)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_stored_in_8_bits_are_numbers(dtype: torch.dtype) -> None:
    x = torch.randn(3, 40).to(dtype)
    w = torch.randint(-128, 128, (5, 40)).to(torch.int8)
    (got,) = Matmul(transpose_b=True).reference([x, w])
    assert got.dtype == dtype
    exact = x.double() @ w.double().T
    bound = {torch.float16: 1e-3, torch.bfloat16: 8e-3}.get(dtype, 1e-6)
    assert float((got.double() - exact).norm() / exact.norm()) < bound


def test_stored_weights_have_the_dtype_of_what_they_multiply() -> None:
    def infer(a: DType, b: DType) -> TensorType:
        return Matmul().infer([TensorType((2, 3), a), TensorType((3, 4), b)])[0]

    for dtype in (DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16):
        assert infer(dtype, DType.INT8) == TensorType((2, 4), dtype)
    for a, b in (
        (DType.FLOAT8_E4M3, DType.INT8), (DType.FLOAT32, DType.UINT8), (DType.INT8, DType.FLOAT32),
        (DType.INT32, DType.INT8),
    ):
        with pytest.raises(ValueError, match=f"dtypes {a.value} and {b.value} differ"):
            infer(a, b)
