"""Casts between floats change dtype and layout in one step, and nothing else is taken."""

import pytest
import torch
from needs import needs_onednn
from tactic_testing import BACKEND, check_tactic, make_spec

from torch2rt.backends.tactic import Refusal
from torch2rt.expression import parse_expression
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.dtype import DType

pytestmark = needs_onednn

NAME = "pointwise.onednn.cast"


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 20, 4), (6, 5)])
@pytest.mark.parametrize(
    ("source", "target"),
    [(torch.float32, DType.BFLOAT16), (torch.bfloat16, DType.FLOAT32)],
)
def test_every_pair_of_layouts(shape, source, target):
    kind = Pointwise(parse_expression(f"to_{target.value}(i0)"), target)
    x = torch.randn(shape).to(source)
    layouts = 9 if len(shape) > 2 else 1
    check_tactic(NAME, kind, [x], exact=True, layouts=layouts)


@pytest.mark.parametrize(
    ("text", "dtype", "x"),
    [
        ("relu(i0)", DType.FLOAT32, torch.randn(2, 3)),
        ("to_int32(i0)", DType.INT32, torch.randn(2, 3)),
        ("to_float32(i0)", DType.FLOAT32, torch.arange(6)),
    ],
)
def test_what_is_more_than_a_cast_of_floats_is_refused(text, dtype, x):
    spec = make_spec(Pointwise(parse_expression(text), dtype), [x], None, (), None)
    assert isinstance(BACKEND.tactics[NAME].supports(spec), Refusal)
