"""A fault planted into one layer is charged to that layer, wherever it is."""

import pytest
import torch

import torch2rt
from torch2rt.backends.spec import Layout, TensorSpec
from torch2rt.engine.engine import Engine
from torch2rt.errors import VerificationError
from torch2rt.inspect.bisect import first_off, step_errors, to_plain
from torch2rt.module import RTModule
from torch2rt.network.dtype import DType

NAMES = ["cnn", "mlp", "attention"]


def again(engine):
    """The same engine with nothing prepared yet."""
    return Engine(
        engine.network, engine.plans, engine.backend, precision=engine.precision,
        calls=engine.calls, report=engine.report, weights=engine.weights,
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_first_layer_named_is_the_faulty_one_at_every_position(name, cases, plant):
    case = cases[name]
    assert len(case.steps) >= 3
    for layer in case.steps:
        with plant(layer):
            found = RTModule(again(case.rt.engine)).bisect(case.model, case.x)
        assert found is not None, layer
        assert found.is_off
        assert found.layer == layer
        assert found.error > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_every_step_of_a_right_engine_is_within_rounding(name, cases):
    case = cases[name]
    errors = step_errors(case.rt.engine, [case.x])
    assert len(errors) == len(case.rt.engine.plans[0].steps)
    assert not any(error.is_off for error in errors)
    assert case.rt.bisect(case.model, case.x) is None


def test_the_first_of_two_faulty_layers_is_named(cases, plant):
    case = cases["cnn"]
    first, second = case.steps[1], case.steps[-1]
    with plant(second), plant(first):
        found = first_off(again(case.rt.engine), [case.x])
    assert found is not None
    assert found.layer == first


def test_a_model_with_other_weights_is_off_though_no_layer_is(cases):
    case = cases["mlp"]
    torch.manual_seed(1)
    other = type(case.model)().eval()
    found = case.rt.bisect(other, case.x)
    assert found is not None
    assert not found.is_off


@pytest.mark.parametrize(
    ("name", "layer", "where"),
    [("cnn", "body", "body"), ("mlp", "norm", "norm"), ("attention", "mlp.2", r"mlp\.2")],
)
def test_convert_raises_and_names_the_layer_by_module_path(name, layer, where, cases, plant,
                                                           tmp_path):
    case = cases[name]
    assert layer in case.steps
    expected = rf"(?s)relative error .*First layer that is off: {where} \(.*\) at .*{where}"
    with plant(layer), pytest.raises(VerificationError, match=expected) as caught:
        torch2rt.convert(
            case.model, case.x, timing_cache=tmp_path / "t.jsonl", threads=1, progress=False
        )
    assert caught.value.facts["layer"] == layer


def test_verification_can_be_left_out(cases, plant, tmp_path):
    case = cases["mlp"]
    with plant("norm"):
        rt = torch2rt.convert(
            case.model, case.x, timing_cache=tmp_path / "t.jsonl", threads=1, verify=False,
            progress=False,
        )
        got = rt(case.x)
    assert not torch.allclose(got, case.model(case.x), atol=1e-2)


@pytest.mark.parametrize("layout", list(Layout))
def test_values_are_read_from_any_layout(layout):
    from tactic_testing import to_bytes

    value = torch.randn(2, 19, 3, 4)
    spec = TensorSpec(tuple(value.shape), DType.FLOAT32, layout)
    raw = to_bytes(value, spec)
    assert torch.equal(torch.from_numpy(to_plain(raw[: spec.extent_bytes], spec)), value)


@pytest.mark.parametrize("layout", [Layout.PLAIN, Layout.CHANNELS_LAST])
def test_values_are_read_out_of_a_wider_tensor(layout):
    wide = torch.randn(2, 5, 6, 8) if layout is Layout.CHANNELS_LAST else torch.randn(2, 9, 5, 6)
    value = wide[..., 1:4].movedim(-1, 1) if layout is Layout.CHANNELS_LAST else wide[:, 1:4]
    run, pitch = (3, 8) if layout is Layout.CHANNELS_LAST else (3 * 5 * 6, 9 * 5 * 6)
    spec = TensorSpec(tuple(value.shape), DType.FLOAT32, layout).with_pitch(run, pitch)
    start = value.storage_offset()
    raw = wide.flatten().numpy()[start:].copy().view("uint8")[: spec.extent_bytes]
    assert torch.equal(torch.from_numpy(to_plain(raw, spec)), value)


def test_a_faulty_reformat_is_named_by_what_it_lies_between(cases, plant):
    case = cases["cnn"]
    plan = case.rt.engine.plans[0]
    if all(step.layer for step in plan.steps):
        pytest.skip("the plan of this machine needs no reformat")
    with plant("reformat"):
        found = first_off(again(case.rt.engine), [case.x])
    assert found is not None
    assert found.layer == "reformat"
    assert "for " in found.where
