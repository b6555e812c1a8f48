"""The profile has every step, and its steps add up to about a call."""

import pytest
import torch

import torch2rt
from torch2rt.build.timing_cache import TimingCache
from torch2rt.inspect.profile import EngineProfile, StepTime, profile_engine

NAMES = ["cnn", "mlp", "attention"]


@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_there_in_order(name, cases):
    case = cases[name]
    profile = case.rt.profile(case.x)
    steps = case.rt.engine.plans[0].steps
    assert [row.tactic for row in profile.steps] == [step.tactic for step in steps]
    for row, step in zip(profile.steps, steps, strict=True):
        assert row.layer == step.layer or row.layer.startswith("reformat of ")
        assert row.time_us > 0
        assert row.bytes > 0


def test_steps_add_up_to_about_a_call():
    """On layers of some size, where the clock itself does not count."""
    model = torch.nn.Sequential(
        torch.nn.Conv2d(16, 64, 3), torch.nn.ReLU(), torch.nn.Conv2d(64, 64, 3), torch.nn.Sigmoid()
    ).eval()
    x = torch.randn(1, 16, 48, 48)
    rt = torch2rt.convert(model, x, threads=1, verify=False, progress=False,
                          timing_cache=TimingCache())
    profile = rt.profile(x)
    total = sum(row.time_us for row in profile.steps)
    assert 0.4 * profile.total_us < total < 2.5 * profile.total_us


def test_it_does_not_change_what_the_engine_computes(cases):
    case = cases["attention"]
    before = case.rt(case.x)
    profile_engine(case.rt.engine, [case.x.numpy()], rounds=3)
    assert torch.equal(case.rt(case.x), before)


def test_table_reads_time_share_and_bandwidth():
    step = StepTime("conv", "convolution", "convolution.onednn.direct", "conv", 50.0, 1_000_000)
    lines = str(EngineProfile((step, step), 110.0)).splitlines()
    assert len(lines) == 4
    assert lines[1].split() == ["conv", "convolution.onednn.direct", "50.0", "50.0%", "20.0"]
    assert lines[3] == "sum of steps 100.0 us, whole call 110.0 us"
