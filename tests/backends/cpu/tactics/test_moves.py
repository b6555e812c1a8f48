"""Reformats, reshapes and the last resort against the reference."""

import itertools

import pytest
import torch
from tactic_testing import (
    BACKEND,
    DictWeights,
    assert_near,
    check_tactic,
    make_spec,
    run_prepared,
    tactic_named,
)

from torch2rt.backends.spec import Layout, LayoutChoice
from torch2rt.backends.tactic import Refusal
from torch2rt.layers.reformat import Reformat
from torch2rt.layers.reshape import Reshape
from torch2rt.torch_values import dtype_from_torch

LAYOUTS = list(Layout)


@pytest.mark.parametrize("name", ["reformat.onednn.reorder", "reformat.numpy.copy"])
@pytest.mark.parametrize(("first", "second"), list(itertools.product(LAYOUTS, LAYOUTS)))
def test_reformat_between_layouts(name, first, second):
    taken = 0
    pairs = [
        (torch.float32,) * 2, (torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16),
        (torch.int64,) * 2, (torch.float32, torch.int32),
    ]
    tactic = tactic_named(name)
    for dtype, out in pairs:
        x = (torch.randn(2, 20, 3, 5) * 3).to(dtype)
        kind = Reformat(dtype_from_torch(out))
        spec = make_spec(kind, [x]).with_layouts(LayoutChoice((first,), (second,)))
        if isinstance(tactic.supports(spec), Refusal):
            continue
        assert tactic.layouts(spec) == (LayoutChoice((first,), (second,)),)
        prepared = tactic.prepare(spec, DictWeights({}))
        (result,) = run_prepared(prepared, spec, [x])
        assert torch.equal(result, x.to(out))
        taken += 1
    is_blocked = first.block > 1 or second.block > 1
    assert taken >= (0 if "numpy" in name and is_blocked and first is not second else 2)


@pytest.mark.parametrize("name", ["reshape.cpu.view", "reshape.numpy.copy", "any.torch.reference"])
@pytest.mark.parametrize(("shape", "target"), [
    ((2, 32, 1, 1), (2, 32)), ((2, 32, 3, 3), (2, 288)), ((2, 20, 3, 1), (2, 20, 3)),
    ((2, 20, 3), (2, 20, 1, 3)), ((6,), (2, 3)), ((1,), ()), ((2, 3, 4), (4, 3, 2)),
])
def test_reshape(name, shape, target):
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        x = torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)
        check_tactic(name, Reshape(target), [x], exact=True)


def test_reshape_to_rows_is_a_view_of_blocks_too():
    spec = make_spec(Reshape((2, 32)), [torch.randn(2, 32, 1, 1)])
    assert len(BACKEND.tactics["reshape.cpu.view"].layouts(spec)) == 3


def test_check_sees_a_wrong_result():
    x = torch.randn(3, 4)
    spec = make_spec(Reshape((12,)), [x])
    prepared = BACKEND.tactics["reshape.numpy.copy"].prepare(spec, DictWeights({}))
    (result,) = run_prepared(prepared, spec, [x])
    with pytest.raises(AssertionError, match="error"):
        assert_near(result + 1e-3, x.reshape(12), spec.outputs[0].dtype, None, False, "here")
