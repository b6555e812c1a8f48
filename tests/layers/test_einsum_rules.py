import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_testing import check_rule, lower_model
from torch import nn

CASES = {
    "ij,jk->ik": [(2, 3), (3, 4)],
    "ij,kj->ik": [(2, 3), (4, 3)],
    "ji,jk->ik": [(2, 3), (2, 4)],
    "bhqd,bhkd->bhqk": [(2, 3, 4, 5), (2, 3, 6, 5)],
    "bhqk,bkhd->bqhd": [(2, 3, 4, 6), (2, 6, 3, 5)],
    "bchw,bkhw->bck": [(2, 3, 4, 5), (2, 6, 4, 5)],
    "b...d,de->b...e": [(2, 3, 4, 5), (5, 6)],
    "...ij,...jk->...ik": [(2, 1, 3, 4), (7, 4, 5)],
    "i,j->ij": [(2,), (3,)],
    "bi,bi->b": [(2, 3), (2, 3)],
    "bi,bi->bi": [(2, 3), (2, 3)],
    "bij->bji": [(2, 3, 4)],
    "bij->b": [(2, 3, 4)],
    "bij,k->b": [(2, 3, 4), (5,)],
    "ij,jk": [(2, 3), (3, 4)],
    "ba": [(2, 3)],
    "ni,oij,nj->no": [(2, 3), (4, 3, 5), (2, 5)],
    "a b c, c b -> a": [(2, 3, 4), (4, 3)],
}


@pytest.mark.parametrize("equation", CASES)
def test_einsum_matches_eager(equation: str) -> None:
    shapes = CASES[equation]
    first = shapes[0][0]
    dynamic = all(first not in shape[1:] for shape in shapes) and equation not in ("ba", "i,j->ij")
    check_rule(
        lambda *xs: torch.einsum(equation, *xs), *(torch.randn(shape) for shape in shapes),
        dynamic=dynamic,
    )


@pytest.mark.parametrize("equation", ["bqd,bkd->bqk", "bqk,bkd->bqd", "bkq,bkd->bqd"])
def test_plain_products_need_no_transposition(equation: str) -> None:
    x = torch.randn(2, 3, 3)
    check_rule(lambda a, b: torch.einsum(equation, a, b), x, x + 1, kinds={"matmul"})


@settings(max_examples=25, deadline=None)
@given(data=st.data(), labels=st.permutations("abcd"))
def test_random_contractions(data: st.DataObject, labels: list[str]) -> None:
    sizes = dict(zip("abcd", (2, 3, 4, 5), strict=True))
    left = data.draw(st.lists(st.sampled_from(labels), unique=True, min_size=1))
    right = data.draw(st.lists(st.sampled_from(labels), unique=True, min_size=1))
    union = sorted({*left, *right})
    output = data.draw(st.lists(st.sampled_from(union), unique=True))
    equation = f"{''.join(left)},{''.join(right)}->{''.join(output)}"
    shapes = [[sizes[label] for label in side] for side in (left, right)]
    check_rule(
        lambda a, b: torch.einsum(equation, a, b), *(torch.randn(s) for s in shapes), dynamic=False
    )


def test_diagonals_and_broadcast_sums_fall_back() -> None:
    lowered = lower_model(lambda x: torch.einsum("ii->i", x), torch.randn(3, 3))
    assert "diagonal" in lowered.fallbacks[0].reason
    inputs = torch.randn(2, 3), torch.randn(1, 4)
    lowered = lower_model(lambda a, b: torch.einsum("ki,kj->ij", a, b), *inputs)
    assert "broadcasts" in lowered.fallbacks[0].reason


def test_tensordot() -> None:
    a, b = torch.randn(2, 3, 4), torch.randn(4, 3, 5)
    check_rule(lambda a, b: torch.tensordot(a, b, ([1, -1], [1, 0])), a, b)
    check_rule(lambda a, b: torch.tensordot(a, b, 1), a, b)


def test_bilinear() -> None:
    check_rule(nn.Bilinear(3, 4, 5), torch.randn(2, 3), torch.randn(2, 4))
    check_rule(nn.Bilinear(3, 4, 5, bias=False), torch.randn(2, 6, 3), torch.randn(2, 6, 4))
