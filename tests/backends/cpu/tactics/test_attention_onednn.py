"""Attention on oneDNN: masks of every form, heads behind rows, and never a reference primitive."""

import dataclasses
import itertools
import math

import pytest
import torch
from needs import needs_onednn
from tactic_testing import check_tactic

from torch2rt.backends.cpu.steps import PrimitiveStep, StepsPrepared
from torch2rt.layers.attention import Attention

pytestmark = needs_onednn

NAME = "attention.onednn.composed"
FLAGS = ("query_heads_last", "key_heads_last", "value_heads_last", "output_heads_last")


def tensors(*shapes, dtype=torch.float32):
    return [torch.randn(shape).to(dtype) for shape in shapes]


def check_fast(kind, inputs, constants=()):
    """Check the values, and that every primitive is generated code; the number of steps."""
    (prepared,) = check_tactic(NAME, kind, inputs, constants=constants)
    assert isinstance(prepared, StepsPrepared)
    names = [
        step.primitive.desc.implementation
        for step in prepared.steps if isinstance(step, PrimitiveStep)
    ]
    assert names
    assert not [name for name in names if name.startswith("ref")], names
    return len(prepared.steps)


# The scores of these have more elements than a reference primitive is allowed.
LARGE = ((2, 3, 40, 16), (2, 3, 33, 16), (2, 3, 33, 8))
MASKS = [(40, 33), (2, 1, 40, 33), (2, 3, 40, 33), (2, 1, 1, 33), (1, 3, 40, 1), (40, 1)]


def some_mask(shape, form):
    """A mask of which one row of each head hides every key."""
    seen = torch.rand(shape) > 0.3
    if shape[-2] > 1:
        seen[..., 4, :] = False
    if form == "bool":
        return seen
    return torch.randn(shape).masked_fill(~seen, -math.inf)


@pytest.mark.parametrize("is_constant", [False, True])
@pytest.mark.parametrize("form", ["bool", "float"])
@pytest.mark.parametrize("shape", MASKS)
def test_masks(shape, form, is_constant):
    inputs = [*tensors(*LARGE), some_mask(shape, form)]
    check_fast(Attention(0.25, has_mask=True), inputs, constants=[3] if is_constant else [])


def test_a_constant_mask_that_leaves_each_query_a_key_costs_no_step():
    mask = torch.ones(40, 33, dtype=torch.bool).tril()
    assert check_fast(Attention(0.25, has_mask=True), [*tensors(*LARGE), mask], [3]) == 3


@pytest.mark.parametrize("is_constant", [False, True])
def test_the_lowest_float_hides_less_than_minus_infinity(is_constant):
    mask = torch.zeros(40, 33)
    mask[3] = torch.finfo(torch.float32).min
    inputs = [*tensors(*LARGE), mask]
    check_fast(Attention(0.25, has_mask=True), inputs, constants=[3] if is_constant else [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=4)))
def test_heads_last(flags, dtype):
    inputs = tensors(*LARGE, dtype=dtype)
    stored = [
        x.transpose(1, 2).contiguous() if flag else x
        for x, flag in zip(inputs, flags, strict=False)
    ]
    kind = dataclasses.replace(Attention(0.25), **dict(zip(FLAGS, flags, strict=True)))
    assert check_fast(kind, stored) == 3


def test_heads_last_with_groups_mask_and_epilogue():
    inputs = tensors((2, 5, 6, 8), (2, 7, 2, 8), (2, 7, 2, 4))
    mask = torch.rand(2, 6, 5, 7) > 0.3
    kind = dataclasses.replace(
        Attention(0.3, has_mask=True, is_grouped=True), **dict.fromkeys(FLAGS, True)
    )
    check_tactic(NAME, kind, [*inputs, mask], "relu(mul(i0,2.0))")
    check_tactic(NAME, kind, [*inputs, mask], "relu(mul(i0,2.0))", constants=[3])
