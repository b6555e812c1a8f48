"""Softmax, norms and attention against the reference."""

import math

import pytest
import torch
from tactic_testing import check_tactic

from torch2rt.layers.attention import Attention
from torch2rt.layers.deconvolution import Deconvolution
from torch2rt.layers.layer_norm import LayerNorm
from torch2rt.layers.softmax import Softmax

FLOATS = [torch.float32, torch.bfloat16]


def tensors(dtype, *shapes):
    return [torch.randn(shape).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "axis"), [((3, 50), 1), ((2, 20, 4, 5), 1), ((2, 3, 8, 9), 3)])
@pytest.mark.parametrize("is_log", [False, True])
def test_softmax(shape, axis, is_log, dtype):
    inputs = tensors(dtype, shape, shape)
    check_tactic("softmax.onednn.direct", Softmax(axis, is_log), inputs[:1])
    check_tactic("softmax.onednn.direct", Softmax(axis, is_log), inputs, "mul(i0,i1)")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("is_centered", [True, False])
@pytest.mark.parametrize(("shape", "count"), [((6, 48), 1), ((2, 3, 40), 1), ((2, 3, 4, 5), 2)])
def test_layer_norm(shape, count, is_centered, dtype):
    x, weight, bias = tensors(dtype, shape, shape[-count:], shape[-count:])
    name = "layer_norm.onednn.rows"
    check_tactic(name, LayerNorm(count, 1e-5, is_centered), [x])
    kind = LayerNorm(count, 1e-5, is_centered, True, is_centered)
    inputs = [x, weight, bias][: 2 + is_centered]
    constants = list(range(1, len(inputs)))
    check_tactic(name, kind, inputs, constants=constants)
    if count == 1:
        more = torch.randn(shape).to(dtype)
        check_tactic(name, kind, [*inputs, more], "relu(add(i0,i1))", constants=constants)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("mask", [None, "causal", "bool", "float", "rows"])
def test_attention(mask, dtype):
    q, k, v = tensors(dtype, (2, 3, 7, 16), (2, 3, 9, 16), (2, 3, 9, 8))
    given = {
        "bool": [torch.rand(2, 1, 7, 9) > 0.4],
        "float": tensors(dtype, (1, 3, 7, 9)),
        "rows": [torch.rand(2, 1, 1, 9) > 0.4],
    }.get(mask, [])
    if mask == "bool":
        given[0][0, 0, 2] = False
    kind = Attention(0.25, is_causal=mask == "causal", has_mask=bool(given))
    check_tactic("attention.onednn.composed", kind, [q, k, v, *given])
    check_tactic("attention.onednn.composed", kind, [q, k, v, *given], "relu(mul(i0,2.0))")


def test_attention_with_every_key_hidden_by_minus_infinity():
    q, k, v = tensors(torch.float32, (1, 2, 4, 8), (1, 2, 5, 8), (1, 2, 5, 8))
    mask = torch.zeros(1, 1, 4, 5)
    mask[..., 1, :] = -math.inf
    mask[..., 2, 1:] = -math.inf
    check_tactic("attention.onednn.composed", Attention(0.3, has_mask=True), [q, k, v, mask])


def test_attention_with_a_mask_per_query_shared_by_all_heads():
    q, k, v = tensors(torch.float32, (2, 3, 5, 8), (2, 3, 6, 8), (2, 3, 6, 4))
    mask = torch.rand(2, 1, 5, 6) > 0.5
    mask[0, 0, 1] = False
    check_tactic("attention.onednn.composed", Attention(0.3, has_mask=True), [q, k, v, mask])


@pytest.mark.parametrize("dtype", FLOATS)
def test_attention_with_grouped_heads(dtype):
    inputs = tensors(dtype, (2, 6, 5, 8), (2, 2, 7, 8), (2, 2, 7, 8), (2, 6, 5, 7))
    kind = Attention(0.3, is_grouped=True)
    check_tactic("attention.onednn.composed", kind, inputs[:3])
    kind = Attention(0.3, is_grouped=True, has_mask=True)
    check_tactic("attention.onednn.composed", kind, inputs)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("x", "w", "stride", "before", "after", "groups"), [
    ((2, 16, 5, 6), (16, 24, 2, 2), 2, 0, 0, 1),
    ((1, 20, 5, 6), (20, 12, 3, 3), 2, 1, 0, 1),
    ((1, 16, 5, 6), (16, 8, 3, 3), 1, 1, 1, 2),
    ((1, 16, 9), (16, 8, 4), 2, 1, 1, 1),
])
def test_deconvolution(x, w, stride, before, after, groups, dtype):
    rank = len(x) - 2
    kind = Deconvolution(
        *((value,) * rank for value in (stride, before, after)), (1,) * rank, groups
    )
    inputs = tensors(dtype, x, w, (w[1] * groups,) + (1,) * rank)
    check_tactic(
        "deconvolution.onednn.direct", kind, inputs, "relu(add(i0,i1))", constants=[1, 2]
    )
