"""Convolution by Winograd's algorithm in bf16 against the reference."""

import numpy as np
import pytest
import torch
from tactic_testing import (
    BACKEND,
    TOLERANCE,
    DictWeights,
    check_tactic,
    make_spec,
    run_prepared,
)

from torch2rt.backends.cpu.jit import compiler, has_bf16_products
from torch2rt.backends.cpu.winograd import element, plan, weights
from torch2rt.backends.tactic import Unprepared
from torch2rt.inspect.tolerance import LAYER
from torch2rt.layers.convolution import Convolution
from torch2rt.network.dtype import DType

NAME = "convolution.winograd.f2"
BF16 = torch.bfloat16

needs_bf16 = pytest.mark.skipif(not has_bf16_products(), reason="no AVX512_BF16")


def conv(before=(1, 1), after=(1, 1)):
    return Convolution(
        stride=(1, 1), padding_before=before, padding_after=after, dilation=(1, 1), groups=1
    )


def values(shape, out_channels, further=(), dtype=BF16):
    """x, weights and operands of the epilogue, those of three dimensions constants in f32."""
    torch.manual_seed(0)
    inputs = [torch.randn(shape), torch.randn(out_channels, shape[1], 3, 3)]
    inputs = [x.to(BF16) for x in inputs]
    inputs += [torch.randn(s).to(torch.float32 if len(s) == 3 else dtype) for s in further]
    constants = [i for i, x in enumerate(inputs) if i == 1 or (i > 1 and x.dim() == 3)]
    return inputs, constants


def check(kind, shape, out_channels, epilogue=None, further=(), **options):
    inputs, constants = values(shape, out_channels, further)
    return check_tactic(
        NAME, kind, inputs, epilogue, constants=constants,
        tolerance=LAYER[DType.BFLOAT16], layouts=2, **options,
    )


@needs_bf16
@pytest.mark.parametrize(("shape", "out_channels"), [
    ((1, 16, 4, 4), 16),
    ((1, 16, 5, 7), 16),
    ((3, 32, 9, 11), 48),
    ((2, 48, 14, 13), 80),
    ((1, 64, 30, 30), 64),
    ((1, 128, 7, 7), 160),
    ((1, 512, 7, 7), 512),
])
def test_sizes(shape, out_channels):
    check(conv(), shape, out_channels)


@needs_bf16
@pytest.mark.parametrize(("before", "after"), [
    ((0, 0), (0, 0)), ((2, 0), (0, 2)), ((5, 1), (3, 7)),
])
def test_padding(before, after):
    check(conv(before, after), (2, 16, 9, 10), 32)


@needs_bf16
@pytest.mark.parametrize("epilogue", [
    "relu(add(i0,i1))", "relu(add(add(i0,i1),i2))", "mul(add(i0,i1),i2)", "hardswish(add(i0,i1))",
])
@pytest.mark.parametrize("ratio", [0.0, 1e9])
def test_epilogues_threads_apart_and_sharing(epilogue, ratio, monkeypatch):
    monkeypatch.setattr(plan, "SHARED_RATIO", ratio)
    has_residual = "i2" in epilogue
    further = [(48, 1, 1), (2, 48, 9, 10)][: 1 + has_residual]
    made = check(conv(), (2, 32, 9, 10), 48, epilogue, further)
    assert all(prepared.may_overwrite == ((3,) if has_residual else ()) for prepared in made)


@needs_bf16
def test_constants_in_bf16_and_operands_with_buffers():
    inputs, _ = values((1, 16, 8, 8), 32, [(1, 1, 1, 1), (1, 32, 1, 1)])
    inputs.append(torch.randn(32, 1, 1).to(BF16))
    check_tactic(
        NAME, conv(), inputs, "add(mul(add(i0,i1),i2),i3)", constants=(1, 4),
        tolerance=LAYER[DType.BFLOAT16], layouts=2,
    )


@needs_bf16
def test_a_wider_residual_is_not_overwritten():
    inputs, _ = values((1, 16, 9, 8), 32, [(1, 32, 9, 8)], torch.float32)
    made = check_tactic(
        NAME, conv(), inputs, "add(i0,i1)", constants=(1,), tolerance=LAYER[DType.BFLOAT16],
        layouts=2,
    )
    assert all(prepared.may_overwrite == () for prepared in made)


@needs_bf16
def test_float32_output():
    check(conv(), (2, 32, 9, 7), 48, out_dtype=DType.FLOAT32)


@needs_bf16
def test_small_cache_makes_more_blocks(monkeypatch):
    monkeypatch.setattr(plan, "BLOCK_BYTES", 1)
    monkeypatch.setattr(plan, "SHARED_RATIO", 1e9)
    check(conv(), (1, 16, 33, 21), 32)


@needs_bf16
def test_error_against_float64():
    """Of the norm: little more than the rounding of inputs and output, 0.2 % each."""
    inputs, _ = values((1, 256, 14, 14), 64)
    spec = make_spec(conv(), inputs, constants=(1,))
    chosen = spec.with_layouts(BACKEND.tactics[NAME].layouts(spec)[0])
    bits = inputs[1].view(torch.int16).numpy().view(np.uint16)
    with BACKEND.building():
        prepared = plan.prepare(chosen, DictWeights({"c1": bits}), 2)
    got = run_prepared(prepared, chosen, inputs)[0].double()
    want = torch.nn.functional.conv2d(inputs[0].double(), inputs[1].double(), padding=1)
    assert float((got - want).norm() / want.norm()) < 5e-3 < TOLERANCE[DType.BFLOAT16]


def test_weights_are_rounded_and_paired():
    """[c, k] becomes [c / 2, k, 2] in each panel, the narrower last one included."""
    target = compiler.WIDE
    channels, out_channels = 6, 48
    given = np.arange(16 * channels * out_channels, dtype=np.float32)
    got = element.widened(weights.paired(given, 2, channels, target)).reshape(16, -1)
    want = torch.from_numpy(given).to(BF16).float().numpy().reshape(16, -1)
    first = got[:, : channels * 32].reshape(16, channels // 2, 32, 2).swapaxes(2, 3)
    last = got[:, channels * 32 :].reshape(16, channels // 2, 16, 2).swapaxes(2, 3)
    assert np.array_equal(first.reshape(16, -1), want[:, : channels * 32])
    assert np.array_equal(last.reshape(16, -1), want[:, channels * 32 :])


def test_rounding_is_that_of_torch():
    special = [0.0, -0.0, float("inf"), -float("inf"), 3.4e38, 1e-40, 1.00390625, 1.01171875]
    given = torch.cat([torch.tensor(special), torch.randn(1000) * 1e3])
    got = element.rounded_bits(given.numpy())
    assert np.array_equal(got, given.to(BF16).view(torch.int16).numpy().view(np.uint16))
    nan = np.array([0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(element.widened(element.rounded_bits(nan))).all()


def spec_of(dtype):
    x, w = torch.zeros(1, 16, 8, 8, dtype=dtype), torch.zeros(16, 16, 3, 3, dtype=dtype)
    return make_spec(conv(), [x, w], constants=(1,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8])
def test_other_dtypes_are_refused(dtype):
    assert "bfloat16" in BACKEND.tactics[NAME].supports(spec_of(dtype)).reason


def test_larger_tiles_are_refused():
    reason = BACKEND.tactics["convolution.winograd.f4"].supports(spec_of(BF16)).reason
    assert "loses too much in bfloat16" in reason


def test_other_processors_are_refused_and_their_plans_are_not_prepared(monkeypatch):
    monkeypatch.setattr(plan, "has_bf16_products", lambda: False)
    spec = spec_of(BF16)
    assert "AVX512_BF16" in BACKEND.tactics[NAME].supports(spec).reason
    with pytest.raises(Unprepared, match="AVX512_BF16"):
        plan.prepare(spec, DictWeights({"c1": np.zeros((16, 16, 3, 3), np.uint16)}), 2)


def test_narrow_vectors_are_refused(monkeypatch):
    monkeypatch.setattr(plan, "machine", lambda: compiler.NARROW)
    assert "AVX512_BF16" in BACKEND.tactics[NAME].supports(spec_of(BF16)).reason
