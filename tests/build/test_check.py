"""Candidates against the reference: what is right passes, and each way to be wrong is seen."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_backend import FakeBackend, Reference, ReferencePrepared, raw, strided
from tactic_testing import DictWeights, make_spec

from torch2rt.backends.buffer import Buffer
from torch2rt.backends.spec import LayerSpec
from torch2rt.build.blob_cache import BlobCache
from torch2rt.build.check import BOUNDS, Checker, error_bound
from torch2rt.build.trial import Trial
from torch2rt.errors import DeviceError
from torch2rt.expression import parse_expression
from torch2rt.layers.attention import Attention
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.matmul import Matmul
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.dtype import DType

ADD = Pointwise(parse_expression("add(i0,i1)"), DType.FLOAT32)
CONVOLUTION = Convolution((1, 1), (0, 0), (0, 0), (1, 1), 1)


class Careless(Reference):
    """Clears its output before it reads: right, unless the output lies over an input."""

    def prepare(self, spec, weights):
        return _Careless(self, spec, weights)


class _Careless(ReferencePrepared):
    def _run(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int) -> int:
        strided(outputs[0])[...] = 0
        return super()._run(inputs, outputs, workspace)


class Spilling(Reference):
    """Writes between the runs of its output too."""

    def prepare(self, spec, weights):
        return _Spilling(self, spec, weights)


class _Spilling(ReferencePrepared):
    def _run(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int) -> int:
        raw(outputs[0].address, outputs[0].spec.extent_bytes)[:] = 0
        return super()._run(inputs, outputs, workspace)


def _fail(result: np.ndarray) -> None:
    raise DeviceError(device="fake", reason="status 700", remedy="None.")


def spec_of(shape: tuple[int, ...] = (2, 8, 3, 3), dtype: torch.dtype = torch.float32) -> LayerSpec:
    kind = Pointwise(ADD.expression, DType(str(dtype).removeprefix("torch.")))
    return make_spec(kind, [torch.zeros(shape, dtype=dtype)] * 2)


def verdict(spec: LayerSpec, tactic: Reference, **weights: torch.Tensor) -> str:
    """Why a tactic is refused; empty if it is not."""
    backend = FakeBackend([tactic], views=())
    arrays = DictWeights({name: value.numpy() for name, value in weights.items()})
    trial = Trial(backend, arrays, BlobCache(), Checker(backend))
    ((_, reason),) = trial.run([(tactic, spec)])
    assert (tactic.name in backend.timed) == (not reason)
    return reason


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.int64])
def test_the_reference_itself_is_right(dtype: torch.dtype) -> None:
    assert verdict(spec_of(dtype=dtype), Reference("any.fake.right")) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda y: y.__setitem__((0, 0, 0, 0), y[0, 0, 0, 0] + 0.5), "of the largest value"),
        (lambda y: np.multiply(y, 1.001, out=y), "of the norm"),
        (lambda y: y.__setitem__((1, 7, 2, 2), np.nan), "NaN or infinity where"),
        (_fail, r"fails while running \(status 700\)"),
    ],
)
def test_wrong_values_are_seen(change: Callable[[np.ndarray], None], reason: str) -> None:
    assert re.search(reason, verdict(spec_of(), Reference("any.fake.wrong", change=change)))


def test_what_is_not_written_is_seen() -> None:
    class Idle(Reference):
        def prepare(self, spec, weights):
            return _Idle(self, spec, weights)

    class _Idle(ReferencePrepared):
        def _run(self, inputs, outputs, workspace):
            return 0

    assert "NaN" in verdict(spec_of(), Idle("any.fake.idle"))


def test_one_wrong_integer_is_seen() -> None:
    wrong = Reference("any.fake.wrong", change=lambda y: y.__setitem__((0, 0, 0, 0), 7))
    assert "values differ" in verdict(spec_of(dtype=torch.int64), wrong)


def test_an_output_over_an_input_is_checked_too() -> None:
    assert "over input 0: error" in verdict(spec_of(), Careless("any.fake.careless"))
    assert verdict(spec_of(), Careless("any.fake.careful", overwrites=False)) == ""


def test_writing_between_runs_is_seen() -> None:
    spec = spec_of((2, 8))
    pitched = LayerSpec(
        spec.name, spec.where, spec.kind, None, spec.inputs,
        (spec.outputs[0].with_pitch(8, 24),), spec.constants,
    )
    assert verdict(pitched, Reference("any.fake.right")) == ""
    assert "between the runs" in verdict(pitched, Spilling("any.fake.spilling"))
    assert verdict(spec, Spilling("any.fake.spilling", overwrites=False)) == ""


def test_results_beyond_float16_are_brought_into_its_range() -> None:
    weight = torch.full((4, 64, 1, 1), 3000.0).half()
    spec = make_spec(CONVOLUTION, [torch.zeros(1, 64, 2, 2).half(), weight], constants=[1])
    assert verdict(spec, Reference("any.fake.right"), c1=weight) == ""
    wrong = Reference("any.fake.wrong", change=lambda y: np.multiply(y, 1.01, out=y))
    assert "error" in verdict(spec, wrong, c1=weight)


def test_bounds_are_those_of_the_coarsest_dtype() -> None:
    assert error_bound(spec_of(dtype=torch.float16)) == BOUNDS[DType.FLOAT16]
    assert error_bound(spec_of(dtype=torch.bfloat16)) == BOUNDS[DType.BFLOAT16]
    assert error_bound(spec_of()) == BOUNDS[DType.FLOAT32]
    assert error_bound(spec_of(dtype=torch.int64)) == 0.0
    exact = make_spec(CONVOLUTION, [torch.zeros(1, 4, 2, 2), torch.zeros(4, 4, 1, 1)])
    loose = Convolution((1, 1), (0, 0), (0, 0), (1, 1), 1, tf32=True)
    tf32 = make_spec(loose, [torch.zeros(1, 4, 2, 2), torch.zeros(4, 4, 1, 1)])
    assert error_bound(exact) < error_bound(tf32) == BOUNDS[DType.FLOAT16]


REQUANTIZED = "to_int8(clamp(round(mul(to_float32(i0),0.013)),-128.0,127.0))"


def requantized() -> LayerSpec:
    operands = [torch.zeros(2, 8, 4, 4).to(torch.int8), torch.zeros(8, 8, 1, 1).to(torch.int8)]
    return make_spec(CONVOLUTION, operands, REQUANTIZED, out_dtype=DType.INT8)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda y: None, ""),
        (lambda y: y.__setitem__((0, 0, 0, 0), y[0, 0, 0, 0] ^ 1), ""),
        (lambda y: np.bitwise_xor(y, 1, out=y), "of its values are one step off"),
        (lambda y: y.__setitem__((0, 0, 0, 0), y[0, 0, 0, 0] ^ 2), "by up to 2 steps"),
    ],
)
def test_roundings_to_8_bits_may_flip_one_step(
    change: Callable[[np.ndarray], None], reason: str
) -> None:
    found = verdict(requantized(), Reference("any.fake.bytes", change=change))
    assert re.search(reason, found) if reason else found == ""


def test_8_bits_without_floats_are_exact() -> None:
    spec = make_spec(Pointwise(parse_expression("max(i0,3)"), DType.INT8),
                     [torch.zeros(2, 8, 3, 3).to(torch.int8)])
    wrong = Reference("any.fake.wrong", change=lambda y: y.__setitem__((0, 0, 0, 0), 4))
    assert "values differ" in verdict(spec, wrong)


def bits_up(values: np.ndarray, count: int) -> None:
    """The first values of a float8 result moved by so many steps, away from zero."""
    flat = values.reshape(-1)
    flat[:4] = np.where((flat[:4] & 0x7F) < 0x70, flat[:4] + count, flat[:4])


@pytest.mark.parametrize(("change", "reason"), [
    (lambda y: None, ""),
    (lambda y: bits_up(y, 1), ""),
    (lambda y: y.reshape(-1).__setitem__(slice(4), 0x7F), "it has NaN"),
    (lambda y: y.reshape(-1).__setitem__(slice(4), 0x7C), "of the largest value"),
    (lambda y: y.__ixor__(0x80), "of the largest value"),
])
def test_float8_may_be_a_step_off(change: Callable[[np.ndarray], None], reason: str) -> None:
    factors = [torch.zeros(6, 8).to(torch.float8_e4m3fn), torch.zeros(5, 8).to(torch.float8_e4m3fn)]
    spec = make_spec(
        Matmul(transpose_b=True), factors, "clamp(mul(i0,0.0007),-448.0,448.0)",
        out_dtype=DType.FLOAT8_E4M3,
    )
    found = verdict(spec, Reference("any.fake.float8", change=change))
    assert reason in found
    assert bool(found) == bool(reason)


class Uniform(Reference):
    """Attends to all keys alike, whatever the scores."""

    def prepare(self, spec, weights):
        return super().prepare(replace(spec, kind=replace(spec.kind, scale=0.0)), weights)


@pytest.mark.parametrize("out", [DType.FLOAT16, DType.FLOAT8_E4M3])
def test_wrong_scores_of_float8_are_seen(out: DType) -> None:
    operands = [torch.zeros(2, 9, 64).to(torch.float8_e4m3fn) for _ in range(3)]
    # As after quantization: numbers of spread 1 were multiplied by 112.
    kind = Attention(64**-0.5 / 112**2)
    spec = make_spec(kind, operands, "clamp(mul(i0,0.5),-448.0,448.0)", out_dtype=out)
    assert verdict(spec, Reference("any.fake.right")) == ""
    assert "of the norm" in verdict(spec, Uniform("any.fake.uniform"))
