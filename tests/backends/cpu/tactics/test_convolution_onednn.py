"""Convolution by oneDNN against the reference."""

import pytest
import torch
from needs import needs_onednn
from tactic_testing import BACKEND, check_tactic, make_spec

from torch2rt.layers.convolution import Convolution

pytestmark = needs_onednn

NAME = "convolution.onednn.direct"


def conv(stride=1, before=0, after=None, dilation=1, groups=1, rank=2):
    after = before if after is None else after
    return Convolution(
        stride=(stride,) * rank, padding_before=(before,) * rank, padding_after=(after,) * rank,
        dilation=(dilation,) * rank, groups=groups,
    )


def tensors(dtype, *shapes):
    return [torch.randn(shape).to(dtype) for shape in shapes]


DTYPES = [torch.float32, torch.bfloat16]
GEOMETRIES = [
    (conv(), (2, 16, 7, 7), (32, 16, 1, 1)),
    (conv(2, 1), (1, 32, 9, 9), (16, 32, 3, 3)),
    (conv(2, 3), (1, 3, 20, 20), (24, 3, 7, 7)),
    (conv(1, 1, 0), (1, 20, 8, 8), (12, 20, 2, 2)),
    (conv(1, 2, dilation=2), (1, 16, 9, 9), (16, 16, 3, 3)),
    (conv(1, 1, groups=32), (1, 32, 8, 8), (32, 1, 3, 3)),
    (conv(2, 1, groups=24), (2, 24, 8, 8), (24, 1, 3, 3)),
    (conv(1, 1, groups=4), (1, 64, 8, 8), (64, 16, 3, 3)),
    (conv(1, 1, groups=3), (1, 12, 8, 8), (24, 4, 3, 3)),
    (conv(1, 1, rank=1), (2, 16, 11), (8, 16, 3)),
    (conv(1, 1, rank=3), (1, 8, 4, 5, 6), (16, 8, 3, 3, 3)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", range(len(GEOMETRIES)))
def test_geometries(case, dtype):
    kind, x, w = GEOMETRIES[case]
    inputs = tensors(dtype, x, w, (w[0],) + (1,) * (len(w) - 2))
    check_tactic(NAME, kind, inputs, "relu(add(i0,i1))", constants=(1, 2))


EPILOGUES = [
    None,
    "add(i0,i1)",
    "relu(add(add(i0,i1),i2))",
    "mul(add(i0,i1),sigmoid(add(i0,i1)))",
    "silu(add(i0,i1))",
    "hardswish(add(i0,i1))",
    "clamp(add(i0,i1),0.0,6.0)",
    "mul(sub(i2,i0),0.5)",
    "div(1.0,add(abs(i0),1.0))",
    "add(mul(i2,2.0),i0)",
    "mul(gelu(add(i0,i1)),i3)",
    "mul(i2,sigmoid(i3))",
    "add(sin(i0),i1)",
    "where(gt(i2,0.0),erf(i0),i1)",
    "max(add(i0,i1),mul(0.1,add(i0,i1)))",
    "leaky_relu(elu(tanh(i0),1.0),0.2)",
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_epilogues(epilogue, dtype):
    kind = conv(1, 1)
    shapes = [(1, 16, 6, 6), (24, 16, 3, 3), (24, 1, 1), (1, 24, 6, 6), (1, 24, 1, 1)]
    inputs = tensors(dtype, *shapes)
    count = 2 + max([i for i in (1, 2, 3) if epilogue and f"i{i}" in epilogue], default=0)
    check_tactic(NAME, kind, inputs[:count], epilogue, constants=[i for i in (1, 2) if i < count])


def test_weights_that_are_no_constant():
    inputs = tensors(torch.float32, (1, 16, 6, 6), (16, 16, 3, 3))
    check_tactic(NAME, conv(), inputs)


def test_residual_is_added_in_place():
    inputs = tensors(torch.float32, (1, 16, 6, 6), (32, 16, 1, 1), (32, 1, 1), (1, 32, 6, 6))
    made = check_tactic(NAME, conv(), inputs, "relu(add(add(i0,i1),i2))", constants=(1, 2))
    assert all(prepared.may_overwrite == (3,) for prepared in made)


def test_integers_are_refused():
    x, w = torch.zeros(1, 4, 5, 5, dtype=torch.int32), torch.zeros(4, 4, 1, 1, dtype=torch.int32)
    refusal = BACKEND.tactics[NAME].supports(make_spec(conv(), [x, w]))
    assert "int32" in refusal.reason


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [0, 1, 5, 7])
def test_second_implementation(case, dtype):
    kind, x, w = GEOMETRIES[case]
    inputs = tensors(dtype, x, w, (w[0],) + (1,) * (len(w) - 2))
    second = check_tactic("convolution.onednn.second", kind, inputs, "relu(add(i0,i1))",
                          constants=(1, 2))
    first = check_tactic(NAME, kind, inputs, "relu(add(i0,i1))", constants=(1, 2))
    names = [made.steps[0].primitive.desc.implementation for made in (second[0], first[0])]
    assert names[0] != names[1]
