"""Layers that differ in factors alone count as one where times are kept, not where code is."""

from __future__ import annotations

import pytest
import torch
from tactic_testing import make_spec

from torch2rt.backends.alike import alike_text
from torch2rt.backends.spec import LayerSpec
from torch2rt.expression import parse_expression
from torch2rt.layers.attention import Attention
from torch2rt.layers.matmul import Matmul
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind

A, B = torch.ones(4, 8), torch.ones(8, 4)
Q = torch.ones(1, 2, 4, 8)


@pytest.mark.parametrize(("text", "alike"), [
    ("clamp(mul(gelu(i0),31.7),-448.0,448.0)", "clamp(mul(gelu(i0),#),-448.0,448.0)"),
    ("add(mul(i0,i1),mul(to_float32(i3),0.25))", "add(mul(i0,i1),mul(to_float32(i3),#))"),
    ("mul(-0.5,mul(i0,3))", "mul(-#,mul(i0,#))"),
    ("mul(mul(i0,1.0),mul(i1,0.0))", "mul(mul(i0,1.0),mul(i1,0.0))"),
    ("mul(i0,inf)", "mul(i0,inf)"),
    ("pow(add(i0,0.5),2.0)", "pow(add(i0,0.5),2.0)"),
    ("mul(i0,-1.0)", "mul(i0,-1.0)"),
    ("i0", "i0"),
])
def test_factors_are_left_out(text: str, alike: str) -> None:
    assert alike_text(parse_expression(text)) == alike


def spec(kind: LayerKind, inputs: list[torch.Tensor], epilogue: str | None = None) -> LayerSpec:
    return make_spec(kind, inputs, epilogue, (), DType.FLOAT16)


def pointwise(text: str) -> LayerSpec:
    return spec(Pointwise(parse_expression(text), DType.FLOAT16), [A])


def attention(scale: float) -> LayerSpec:
    return spec(Attention(scale, False, False, False), [Q, Q, Q])


@pytest.mark.parametrize(("one", "other", "is_alike"), [
    (spec(Matmul(), [A, B], "mul(i0,0.3)"), spec(Matmul(), [A, B], "mul(i0,7.5)"), True),
    (spec(Matmul(), [A, B], "mul(i0,0.3)"), spec(Matmul(), [A, B], "mul(i0,-0.3)"), False),
    (spec(Matmul(), [A, B], "add(i0,0.3)"), spec(Matmul(), [A, B], "add(i0,7.5)"), False),
    (spec(Matmul(), [A, B]), spec(Matmul(), [A, B], "mul(i0,0.3)"), False),
    (pointwise("mul(i0,0.3)"), pointwise("mul(i0,0.4)"), True),
    (pointwise("mul(i0,0.3)"), pointwise("add(i0,0.3)"), False),
    (attention(0.3), attention(0.4), True),
    (attention(0.3), attention(1.0), False),
])
def test_signatures(one: LayerSpec, other: LayerSpec, is_alike: bool) -> None:
    assert (one.signature == other.signature) == is_alike
    assert one.code_signature != other.code_signature
