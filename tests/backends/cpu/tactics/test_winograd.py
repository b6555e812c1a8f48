"""Convolution by Winograd's algorithm against the reference."""

import numpy as np
import pytest
import torch
from tactic_testing import BACKEND, DictWeights, check_tactic, make_spec, run_prepared

from torch2rt.backends.cpu.jit import compiler
from torch2rt.backends.cpu.winograd import plan, transform
from torch2rt.backends.tactic import Refusal, Unprepared
from torch2rt.inspect.tolerance import LAYER
from torch2rt.layers.convolution import Convolution
from torch2rt.network.dtype import DType

NAMES = {2: "convolution.winograd.f2", 4: "convolution.winograd.f4"}
TILES = pytest.mark.parametrize("m", [2, 4])
NEW_ENGINE = compiler._engine.__wrapped__  # not the cached one
TOLERANCE = LAYER[DType.FLOAT32]

pytestmark = pytest.mark.skipif(
    compiler.jit_unavailable() is not None, reason=str(compiler.jit_unavailable())
)


def conv(before=(1, 1), after=(1, 1), stride=(1, 1), dilation=(1, 1), groups=1):
    return Convolution(
        stride=stride, padding_before=before, padding_after=after, dilation=dilation, groups=groups,
    )


def check(m, kind, shape, out_channels, epilogue=None, further=()):
    torch.manual_seed(0)
    inputs = [torch.randn(shape), torch.randn(out_channels, shape[1], 3, 3)]
    inputs += [torch.randn(size) for size in further]
    constants = [i for i, x in enumerate(inputs) if i == 1 or (i > 1 and x.dim() == 3)]
    return check_tactic(
        NAMES[m], kind, inputs, epilogue, constants=constants, tolerance=TOLERANCE, layouts=2
    )


@TILES
@pytest.mark.parametrize(("shape", "out_channels"), [
    ((1, 16, 4, 4), 16),
    ((1, 16, 5, 7), 16),
    ((3, 32, 9, 11), 48),
    ((2, 48, 14, 13), 80),
    ((1, 64, 30, 30), 64),
    ((1, 128, 7, 7), 160),
])
def test_sizes(m, shape, out_channels):
    check(m, conv(), shape, out_channels)


@TILES
@pytest.mark.parametrize(("before", "after"), [
    ((0, 0), (0, 0)), ((0, 1), (1, 0)), ((2, 0), (0, 2)), ((5, 1), (3, 7)),
])
def test_padding(m, before, after):
    check(m, conv(before, after), (2, 16, 9, 10), 32)


EPILOGUES = [
    "relu(add(i0,i1))",
    "add(add(i0,i1),i2)",
    "relu(add(add(i0,i1),i2))",
    "mul(add(i0,i1),i2)",
    "clamp(add(i0,i1),-0.5,2.0)",
    "leaky_relu(sub(i2,i0),0.1)",
    "hardswish(add(i0,i1))", "silu(add(i0,i1))",
    "div(hardsigmoid(i0),add(square(i1),1.0))",
    "max(neg(abs(i0)),min(i2,sqrt(square(i1))))",
]


@TILES
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_epilogues(m, epilogue):
    has_residual = "i2" in epilogue
    further = [(48, 1, 1), (2, 48, 9, 10)][: 1 + has_residual]
    made = check(m, conv(), (2, 32, 9, 10), 48, epilogue, further)
    # `check_tactic` then runs in place of each of these as well.
    assert all(prepared.may_overwrite == ((3,) if has_residual else ()) for prepared in made)


@TILES
def test_scalar_and_channel_operands_with_buffers(m):
    further = [(1, 1, 1, 1), (1, 32, 1, 1)]
    check(m, conv(), (1, 16, 8, 8), 32, "mul(add(i0,i1),i2)", further)


@TILES
@pytest.mark.parametrize("ratio", [0.0, 1e9])
def test_threads_apart_and_sharing(m, ratio, monkeypatch):
    monkeypatch.setattr(plan, "SHARED_RATIO", ratio)
    check(m, conv(), (2, 32, 17, 15), 96, "relu(add(i0,i1))", [(96, 1, 1)])


def test_weights_are_shared_where_they_are_large():
    few = make_spec(conv(), [torch.zeros(1, 64, 56, 56), torch.zeros(64, 64, 3, 3)])
    many = make_spec(conv(), [torch.zeros(1, 512, 7, 7), torch.zeros(512, 512, 3, 3)])
    assert not plan.shares_weights(few, 4)
    assert plan.shares_weights(many, 4)


@TILES
def test_small_cache_makes_more_blocks(m, monkeypatch):
    monkeypatch.setattr(plan, "BLOCK_BYTES", 1)
    monkeypatch.setattr(plan, "SHARED_RATIO", 1e9)
    check(m, conv(), (1, 16, 33, 21), 32)


@TILES
def test_narrow_vectors(m, monkeypatch):
    """The code for AVX2, where this CPU has more."""
    monkeypatch.setattr(plan, "machine", lambda: compiler.NARROW)
    torch.manual_seed(0)
    inputs = [torch.randn(1, 24, 9, 9), torch.randn(40, 24, 3, 3), torch.randn(40, 1, 1)]
    check_tactic(NAMES[m], conv(), inputs, "relu(add(i0,i1))", constants=(1, 2),
                 tolerance=TOLERANCE, layouts=2)


def float64_error(m, monkeypatch, points):
    """Relative error of a layer of 256 channels; kernels are written anew for the points."""
    if points is not None:
        monkeypatch.setitem(transform.POINTS, m, points)
    monkeypatch.setattr(compiler, "_ADDRESSES", {})
    engine = NEW_ENGINE()
    monkeypatch.setattr(compiler, "_engine", lambda: engine)
    torch.manual_seed(0)
    x, w = torch.randn(1, 256, 8, 8).relu(), torch.randn(64, 256, 3, 3)
    spec = make_spec(conv(), [x, w], constants=(1,))
    chosen = spec.with_layouts(BACKEND.tactics[NAMES[m]].layouts(spec)[0])
    with BACKEND.building():
        prepared = plan.prepare(chosen, DictWeights({"c1": w.numpy()}), m)
    got = run_prepared(prepared, chosen, [x, w])[0].double()
    want = torch.nn.functional.conv2d(x.double(), w.double(), padding=1)
    return float((got - want).norm() / want.norm())


def test_error_against_float64(monkeypatch):
    error_2 = float64_error(2, monkeypatch, None)
    error_4 = float64_error(4, monkeypatch, None)
    assert error_2 < 1e-6
    assert error_4 < 2.5e-6


def test_the_points_are_better_than_the_usual_ones(monkeypatch):
    ours = float64_error(4, monkeypatch, None)
    usual = float64_error(4, monkeypatch, (0.0, 1.0, -1.0, 2.0, -2.0))
    assert ours < 0.7 * usual < TOLERANCE


def test_a_wrong_transform_is_noticed(monkeypatch):
    right = transform.input_matrix

    def wrong(m):
        matrix = right(m)
        matrix[0, 2] *= 1.001
        return matrix

    monkeypatch.setattr(transform, "input_matrix", wrong)
    assert float64_error(4, monkeypatch, None) > 5 * TOLERANCE


@TILES
def test_matrices_give_the_convolution(m):
    """sum over t of AT[i, t] G[t, j] BT[t, :] is the unit vector i + j."""
    left, middle, right = (
        transform.output_matrix(m), transform.weight_matrix(m), transform.input_matrix(m)
    )
    for i in range(m):
        for j in range(3):
            row = (left[i] * middle[:, j]) @ right
            assert np.allclose(row, np.eye(m + 2)[i + j], atol=1e-12)


REFUSED = [
    (conv(stride=(2, 2)), (1, 16, 9, 9), (16, 16, 3, 3), None, "stride 1"),
    (conv(dilation=(2, 2)), (1, 16, 9, 9), (16, 16, 3, 3), None, "dilation 1"),
    (conv(groups=2), (1, 32, 9, 9), (16, 16, 3, 3), None, "one group"),
    (conv(), (1, 16, 9, 9), (16, 16, 1, 3), None, "3 x 3"),
    (conv(), (1, 12, 9, 9), (16, 12, 3, 3), None, "multiples"),
    (conv(), (1, 16, 9, 9), (20, 16, 3, 3), None, "multiples"),
    (conv(), (1, 16, 3, 9), (16, 16, 3, 3), None, "smaller than a tile"),
    (conv(), (1, 16, 9, 9), (16, 16, 3, 3), "sin(i0)", "sin"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_refusals(case):
    kind, x, w, epilogue, reason = REFUSED[case]
    spec = make_spec(kind, [torch.zeros(x), torch.zeros(w)], epilogue, constants=(1,))
    refusal = BACKEND.tactics[NAMES[4]].supports(spec)
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason


def test_weights_that_are_no_constant_are_refused():
    spec = make_spec(conv(), [torch.zeros(1, 16, 8, 8), torch.zeros(16, 16, 3, 3)])
    assert "no constant" in BACKEND.tactics[NAMES[2]].supports(spec).reason


def test_half_precision_is_refused():
    inputs = [x.half() for x in (torch.zeros(1, 16, 8, 8), torch.zeros(16, 16, 3, 3))]
    assert "float32" in BACKEND.tactics[NAMES[2]].supports(make_spec(conv(), inputs)).reason


def test_epilogue_that_broadcasts_otherwise_is_refused():
    inputs = [torch.zeros(1, 16, 8, 8), torch.zeros(16, 16, 3, 3), torch.zeros(1, 1, 8, 8)]
    spec = make_spec(conv(), inputs, "add(i0,i1)", constants=(1,))
    assert "epilogue input 2" in BACKEND.tactics[NAMES[2]].supports(spec).reason


def test_without_the_compiler_a_saved_plan_cannot_be_prepared(monkeypatch):
    inputs = [torch.zeros(1, 16, 8, 8), torch.zeros(16, 16, 3, 3)]
    spec = make_spec(conv(), inputs, constants=(1,))

    def missing():
        raise compiler.JitUnavailable("pip install llvmlite")

    monkeypatch.setattr(plan, "machine", missing)
    with pytest.raises(Unprepared, match="pip install llvmlite"):
        plan.prepare(spec, DictWeights({"c1": inputs[1].numpy()}), 2)
