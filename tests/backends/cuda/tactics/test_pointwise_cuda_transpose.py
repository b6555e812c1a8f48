"""pointwise.cuda.transpose and reformat.cuda.* against the reference."""

from dataclasses import replace

import pytest
import torch
from cuda_compile import compile_for_all
from cuda_testing import (
    BlobWeights,
    assert_refused,
    check_cuda_tactic,
    cuda_spec,
    device_under_test,
    run_prepared,
    with_pitches,
)

from torch2rt.backends.backend import find_tactic
from torch2rt.backends.cuda.cpp.transposed import transpose_kernel
from torch2rt.backends.cuda.device import preparing_for
from torch2rt.backends.spec import Layout, LayoutChoice
from torch2rt.backends.tactic import Refusal, Unprepared
from torch2rt.expression import parse_expression
from torch2rt.kernels.cuda.pointwise_transpose import NAME
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.reformat import Reformat
from torch2rt.network.dtype import DType
from torch2rt.torch_values import dtype_from_torch

TACTIC = "pointwise.cuda.transpose"
pytestmark = pytest.mark.usefixtures("cuda_device")


def pointwise(text, dtype=DType.FLOAT32):
    return Pointwise(parse_expression(text), dtype)


SHAPES = [
    (2, 3, 9, 11), (1, 3, 32, 32), (2, 64, 7, 7), (2, 24, 16, 20), (1, 130, 3, 43), (3, 5, 2, 2),
    (2, 8, 70), (1, 4, 3, 5, 6), (1, 1000, 2, 3), (2, 2, 300, 7), (1, 257, 1, 16),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "out"),
    [(torch.float32, DType.FLOAT16), (torch.float16, DType.FLOAT16), (torch.float16, DType.FLOAT32),
     (torch.bfloat16, DType.BFLOAT16), (torch.float32, DType.FLOAT32)],
)
def test_casts(shape, dtype, out):
    x = torch.randn(shape).to(dtype)
    check_cuda_tactic(TACTIC, pointwise(f"to_{out.value}(i0)", out), [x], exact=True, layouts=2)


@pytest.mark.parametrize(
    ("dtype", "out"), [(torch.int64, DType.INT64), (torch.bool, DType.BOOL),
                       (torch.uint8, DType.FLOAT16), (torch.float64, DType.FLOAT32)],
)
def test_other_dtypes(dtype, out):
    for shape in [(2, 3, 5, 7), (2, 40, 8, 8)]:
        x = (torch.randn(shape) * 9).to(dtype)
        check_cuda_tactic(TACTIC, pointwise(f"to_{out.value}(i0)", out), [x], exact=True)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 40, 5, 7), (1, 16, 64, 3)])
def test_several_operands(shape):
    inputs = [torch.randn(shape), torch.randn(shape), torch.randn(shape[1], 1, 1)]
    kind = pointwise("to_float16(relu(add(mul(i0,i2),i1)))", DType.FLOAT16)
    check_cuda_tactic(TACTIC, kind, inputs, constants=[2], layouts=2)
    check_cuda_tactic(TACTIC, pointwise("sub(i0,i1)"), inputs[:2], "mul(i0,0.5)")
    scales = [torch.randn(shape), torch.randn(shape[0], 1, 1, 1), torch.randn(shape[2:])]
    check_cuda_tactic(TACTIC, pointwise("add(mul(i0,i1),i2)"), scales)


def test_what_it_refuses():
    kind = pointwise("add(i0,i1)")
    assert_refused(TACTIC, kind, [torch.ones(2, 8, 1, 1)] * 2, reason="one layout")
    assert_refused(TACTIC, kind, [torch.ones(2, 8)] * 2, reason="one layout")
    broadcast = [torch.ones(2, 8, 3, 1), torch.ones(2, 1, 1, 4)]
    assert_refused(TACTIC, kind, broadcast, reason="whole shape")


def test_operands_along_a_part_of_the_image_are_not_prepared():
    spec = cuda_spec(pointwise("add(i0,i1)"), [torch.ones(1, 8, 3, 4), torch.ones(3, 1)])
    choice = LayoutChoice((Layout.PLAIN, Layout.PLAIN), (Layout.CHANNELS_LAST,))
    with pytest.raises(Unprepared, match="some axes of the image"):
        transpose_kernel(spec.with_layouts(choice), 132)


@pytest.mark.parametrize("pitched", [{"i0": 1}, {"o0": 1}])
def test_inside_wider_tensors(pitched):
    x = torch.randn(2, 16, 4, 32).half()
    check_cuda_tactic(TACTIC, pointwise("relu(i0)", DType.FLOAT16), [x], pitched=pitched)


def reformat(x, out, source, target, pitched=None):
    """Run a reformat as the planner asks for it; None if no tactic takes it."""
    spec = cuda_spec(Reformat(out), [x]).with_layouts(LayoutChoice((source,), (target,)))
    for name in ("reformat.cuda.vector", "reformat.cuda.transpose"):
        tactic = find_tactic("torch2rt.backends.cuda.tactics", name)
        if isinstance(tactic.supports(spec), Refusal):
            continue
        assert tactic.layouts(spec) == (LayoutChoice((source,), (target,)),)
        chosen = with_pitches(spec, pitched or {})
        assert tactic.takes_pitch(chosen)
        with preparing_for(device_under_test().device):
            prepared = tactic.prepare(chosen, BlobWeights({}))
        return run_prepared(prepared, chosen, [x])[0]
    return None


@pytest.mark.parametrize("source", [Layout.PLAIN, Layout.CHANNELS_LAST])
@pytest.mark.parametrize("target", [Layout.PLAIN, Layout.CHANNELS_LAST])
@pytest.mark.parametrize("shape", [(2, 3, 6, 10), (1, 32, 9, 8), (2, 8, 1, 1), (2, 1, 4, 4)])
def test_reformats(source, target, shape):
    for dtype, out in [(torch.float32, torch.float16), (torch.float16, torch.float16)]:
        x = torch.randn(shape).to(dtype)
        got = reformat(x, dtype_from_torch(out), source, target)
        assert torch.equal(got, x.to(out))


@pytest.mark.parametrize("target", [Layout.PLAIN, Layout.CHANNELS_LAST])
def test_reformats_of_pitched_tensors(target):
    x = torch.randn(2, 16, 4, 8).half()
    got = reformat(x, DType.FLOAT16, Layout.CHANNELS_LAST, target, {"i0": 1})
    assert torch.equal(got, x)
    rows = torch.randn(3, 4, 24).half()
    assert torch.equal(
        reformat(rows, DType.FLOAT32, Layout.PLAIN, Layout.PLAIN, {"i0": 1}), rows.float()
    )


def test_blocked_layouts_are_refused():
    spec = cuda_spec(Reformat(DType.FLOAT32), [torch.ones(1, 16, 2, 2)])
    spec = replace(spec, inputs=(spec.inputs[0].with_layout(Layout.BLOCKED8),))
    for name in ("reformat.cuda.vector", "reformat.cuda.transpose"):
        refusal = find_tactic("torch2rt.backends.cuda.tactics", name).supports(spec)
        assert isinstance(refusal, Refusal)
        assert "blocked" in refusal.reason


@pytest.mark.parametrize("shape", [(64, 3, 224, 224), (64, 256, 56, 56), (1, 3, 224, 224)])
@pytest.mark.parametrize("target", [Layout.PLAIN, Layout.CHANNELS_LAST])
def test_nvrtc_takes_it(shape, target):
    x = torch.empty(shape, device="meta")
    source = Layout.PLAIN if target is Layout.CHANNELS_LAST else Layout.CHANNELS_LAST
    spec = cuda_spec(pointwise("to_float16(i0)", DType.FLOAT16), [x])
    kernel = transpose_kernel(spec.with_layouts(LayoutChoice((source,), (target,))), 132)
    compile_for_all(kernel.source, NAME)
