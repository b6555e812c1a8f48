"""Verification: an engine is judged by the rounding of its precision, and told from an overflow."""

import math

import pytest
import torch

import torch2rt
from torch2rt.backends.reference.executor import run_network
from torch2rt.errors import OverflowInPrecisionError, VerificationError
from torch2rt.inspect import verify
from torch2rt.inspect.tolerance import NETWORK, layer_tolerance
from torch2rt.inspect.verify import exact_float32, run_engine, verify_engine
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType


def eager_is_off_by(error):
    return lambda engine, *_: dict.fromkeys(engine.network.outputs, error)


def as_precision(engine, precision, monkeypatch):
    monkeypatch.setattr(engine, "precision", precision)
    return engine


@pytest.mark.parametrize("precision", sorted(NETWORK))
def test_a_right_engine_passes_at_every_precision(precision, cases, monkeypatch):
    case = cases["mlp"]
    engine = as_precision(case.rt.engine, precision, monkeypatch)
    expected = [case.model(case.x).detach()]
    errors = verify_engine(engine, engine.network, [case.x], expected, "x")
    assert max(errors.values()) < NETWORK["fp32"]


@pytest.mark.parametrize("precision", sorted(NETWORK))
def test_more_than_the_tolerance_is_refused_unless_eager_is_as_far_off(
    precision, cases, monkeypatch
):
    case = cases["mlp"]
    engine = as_precision(case.rt.engine, precision, monkeypatch)
    expected = [case.model(case.x).detach() * (1 + 2 * NETWORK[precision])]
    for eager in (0.0, NETWORK[precision] / 3, math.inf):
        monkeypatch.setattr(verify, "_eager_error", eager_is_off_by(eager))
        with pytest.raises(VerificationError, match="relative error"):
            verify_engine(engine, engine.network, [case.x], expected, "x")
    monkeypatch.setattr(verify, "_eager_error", eager_is_off_by(2 * NETWORK[precision]))
    verify_engine(engine, engine.network, [case.x], expected, "x")


def test_an_overflow_names_the_layer_and_the_cure(tmp_path, monkeypatch):
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)).eval()
    torch.nn.init.ones_(model[0].weight)
    rt = torch2rt.convert(
        model, torch.randn(3, 4), timing_cache=tmp_path / "t.jsonl", threads=1, progress=False
    )
    engine = as_precision(rt.engine, "fp16", monkeypatch)
    x = torch.full((3, 4), 3e38)  # overflows float32 as 6e4 would float16
    with pytest.raises(OverflowInPrecisionError, match=r"(?s)layer 0 .* is the first.*bf16"):
        verify_engine(engine, engine.network, [x], [torch.zeros(3, 2)], "x")


def test_run_engine_gives_the_outputs(cases):
    case = cases["cnn"]
    torch.testing.assert_close(run_engine(case.rt.engine, [case.x])[0], case.model(case.x).detach())


def test_torch_computes_float32_in_float32_and_is_left_as_it_was():
    switches = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [switch.fp32_precision for switch in switches]
    with exact_float32():
        assert [switch.fp32_precision for switch in switches] == ["ieee", "ieee"]
    assert [switch.fp32_precision for switch in switches] == before


def test_the_oracle_runs_on_a_device(cases):
    case = cases["attention"]
    network = case.rt.engine.network
    inputs = dict(zip(network.inputs, [case.x], strict=True))
    on_cpu = run_network(network, inputs, device=torch.device("cpu"))
    torch.testing.assert_close(next(iter(on_cpu.values())), case.model(case.x).detach())


def test_layers_with_tf32_may_be_off_by_its_rounding():
    assert layer_tolerance(Matmul(), DType.FLOAT32) < 1e-4
    assert layer_tolerance(Matmul(tf32=True), DType.FLOAT32) == 1e-3
    assert layer_tolerance(Matmul(), DType.INT64) == 0.0


@pytest.mark.parametrize("wrong", [0, 2])
def test_every_run_until_it_settles_counts(wrong, cases, monkeypatch):
    """The replay of a captured graph is verified, not only the first run."""
    case = cases["mlp"]
    engine = case.rt.engine
    expected = [case.model(case.x).detach()]
    runs = []

    def run(engine, inputs):
        runs.append(run_engine(engine, inputs))
        if len(runs) - 1 == wrong:
            runs[-1][0].fill_(math.nan)
        return runs[-1]

    monkeypatch.setattr(verify, "run_engine", run)
    monkeypatch.setattr(engine.backend, "runs_to_settle", 3, raising=False)
    with pytest.raises(VerificationError):
        verify_engine(engine, engine.network, [case.x], expected, "x")
    assert len(runs) == 3
