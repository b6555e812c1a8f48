from dataclasses import replace

import pytest
import torch
from layer_testing import check_rule, lower_model
from torch.nn.functional import scaled_dot_product_attention

from torch2rt.layers.attention import Attention
from torch2rt.network.dim import symbol
from torch2rt.network.dtype import DType
from torch2rt.network.layer import run_reference
from torch2rt.network.tensor import TensorType


def qkv(heads: int = 3, key_heads: int = 3) -> list[torch.Tensor]:
    shapes = [(2, heads, 5, 4), (2, key_heads, 7, 4), (2, key_heads, 7, 6)]
    return [torch.randn(shape) for shape in shapes]


OPTIONS = {
    "plain": {},
    "causal": {"is_causal": True},
    "scaled": {"scale": 0.7},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_rule_matches_eager(name: str) -> None:
    def model(*inputs: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(*inputs, **OPTIONS[name])

    check_rule(model, *qkv(), kinds={"attention"})


@pytest.mark.parametrize("shape", [(5, 7), (1, 7), (2, 1, 5, 7), (2, 3, 5, 7)])
@pytest.mark.parametrize("is_bool", [True, False])
def test_masks(shape: tuple[int, ...], is_bool: bool) -> None:
    mask = torch.rand(shape) > 0.3 if is_bool else torch.randn(shape)
    check_rule(scaled_dot_product_attention, *qkv(), mask, kinds={"attention"})


def test_query_without_any_key_gives_zeros() -> None:
    mask = torch.ones(2, 1, 5, 7, dtype=torch.bool)
    mask[0, 0, 2] = False
    check_rule(scaled_dot_product_attention, *qkv(), mask)


def test_grouped_heads() -> None:
    def model(*inputs: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(*inputs, enable_gqa=True)

    network = check_rule(model, *qkv(6, 2), kinds={"attention"})
    assert network.layers[0].kind.is_grouped
    assert not check_rule(model, *qkv(3, 3)).layers[0].kind.is_grouped


def test_three_axes() -> None:
    check_rule(scaled_dot_product_attention, *(x[:, 0] for x in qkv()))


def test_dropout_falls_back() -> None:
    def model(*inputs: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(*inputs, dropout_p=0.5)

    assert "results are random" in lower_model(model, *qkv()).fallbacks[0].reason


def test_symbolic_shapes() -> None:
    n, s = symbol("n"), symbol("s")
    q, kv = (TensorType((n, 8, s, 4), DType.FLOAT32), TensorType((n, 2, s, 4), DType.FLOAT32))
    assert str(Attention(0.5, is_grouped=True).infer([q, kv, kv])[0]) == "float32[n,8,s,4]"


def test_flops_are_those_of_the_two_products() -> None:
    types = [TensorType(tuple(x.shape), DType.FLOAT32) for x in qkv()]
    kind = Attention(0.5)
    assert kind.flops(types, kind.infer(types)) == 2 * (2 * 3 * 5 * 7) * (4 + 6)


def test_inputs_that_do_not_fit_are_refused() -> None:
    q, k, v = (TensorType(tuple(x.shape), DType.FLOAT32) for x in qkv())
    with pytest.raises(ValueError, match="feature sizes"):
        Attention(0.5).infer([q, v, v])
    with pytest.raises(ValueError, match="with 3 inputs, has_mask=True"):
        Attention(0.5, has_mask=True).infer([q, k, v])
    with pytest.raises(ValueError, match="no multiple"):
        Attention(0.5, is_grouped=True).infer([TensorType((2, 4, 5, 4), DType.FLOAT32), k, v])


@pytest.mark.parametrize("last", range(4))
def test_heads_last_is_a_transpose_of_that_operand(last: int) -> None:
    names = ("query_heads_last", "key_heads_last", "value_heads_last", "output_heads_last")
    inputs = qkv(6, 2)
    want = Attention(0.5, is_grouped=True).reference(inputs)[0]
    stored = [x.transpose(1, 2) if i == last else x for i, x in enumerate(inputs)]
    kind = replace(Attention(0.5, is_grouped=True), **{names[last]: True})
    got = kind.reference(stored)[0]
    types = [TensorType(tuple(x.shape), DType.FLOAT32) for x in stored]
    assert kind.infer(types)[0].shape == tuple(got.shape)
    assert kind.flops(types, kind.infer(types)) == 2 * (2 * 6 * 5 * 7) * (4 + 6)
    torch.testing.assert_close(got.transpose(1, 2) if last == 3 else got, want)


def test_heads_last_needs_heads() -> None:
    x = TensorType((5, 4), DType.FLOAT32)
    with pytest.raises(ValueError, match="no axis of heads"):
        Attention(0.5, key_heads_last=True).infer([x, x, x])


def test_float8_sums_to_float32() -> None:
    q, k, v = ((20 * x).to(torch.float8_e4m3fn) for x in qkv())
    types = [TensorType(tuple(x.shape), DType.FLOAT8_E4M3) for x in (q, k, v)]
    kind = Attention(0.5 / 400)
    (result,) = kind.infer(types)
    assert result == TensorType((2, 3, 5, 6), DType.FLOAT32)
    (got,) = run_reference(kind, None, [q, k, v], [result])
    want = scaled_dot_product_attention(q.double(), k.double(), v.double(), scale=0.5 / 400)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-4)
    mask = TensorType((5, 7), DType.BOOL)
    assert Attention(0.5, has_mask=True).infer([*types, mask]) == (result,)


def test_some_operands_in_float8_are_refused() -> None:
    types = [TensorType(tuple(x.shape), DType.FLOAT16) for x in qkv()]
    types[1] = TensorType(types[1].shape, DType.FLOAT8_E4M3)
    with pytest.raises(ValueError, match="attention of float16, float8_e4m3fn and float16: all or"):
        Attention(0.5).infer(types)
