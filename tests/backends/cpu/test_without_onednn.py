"""Conversions where no oneDNN is found: torch's operators and kernels of our own do all of it."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.backends.cpu import backend, layouts
from torch2rt.backends.cpu.onednn import OneDNNUnavailable, loader
from torch2rt.backends.spec import Layout
from torch2rt.build.timing_cache import TimingCache

CACHED = (
    backend.onednn_unavailable, layouts.instruction_set, layouts.has_wide_vectors,
    layouts.computes_in,
)


@pytest.fixture(autouse=True)
def _hidden_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library is not where it is looked for, and nothing remembers that it was."""
    monkeypatch.setattr(loader, "_loaded", [])
    monkeypatch.setattr(loader, "candidate_paths", lambda: iter(()))
    _forget()
    with pytest.raises(OneDNNUnavailable):
        loader.library()
    yield
    _forget()


def _forget() -> None:
    for function in CACHED:
        function.cache_clear()


def _model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 10),
    ).eval()


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-2), ({"*": "int8"}, 5e-2)]
)
def test_a_model_converts_at_every_precision(precision, tolerance):
    model, x = _model(), torch.randn(4, 3, 32, 32)
    rt = torch2rt.convert(
        model, x, precision=precision, calibration=[x] if isinstance(precision, dict) else None,
        threads=1, timing_cache=TimingCache(), progress=False,
    )
    tactics = [step.tactic for step in rt.engine.plans[0].steps]
    assert not any(".onednn." in tactic for tactic in tactics)
    torch.testing.assert_close(rt(x), model(x).detach(), rtol=0, atol=tolerance)


def test_nan_is_not_dropped_by_the_activations_of_torchs_onednn():
    model = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Flatten()).eval()
    x = torch.randn(2, 3, 12, 12)
    rt = torch2rt.convert(model, x, threads=1, timing_cache=TimingCache(), progress=False)
    assert [step.tactic for step in rt.engine.plans[0].steps if ".torch.mkldnn" in step.tactic]
    x[0, 0, 0, 0] = torch.nan
    assert torch.equal(rt(x).isnan(), model(x).isnan())


def test_layouts_are_those_of_our_own_kernels(monkeypatch):
    assert layouts.instruction_set() == ""
    monkeypatch.setattr(layouts, "jit_unavailable", lambda: "no llvmlite")
    layouts.has_wide_vectors.cache_clear()
    assert layouts.blocked_layout() is Layout.BLOCKED8
