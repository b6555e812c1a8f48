"""Plans where a backend lacks what others have: layouts that nothing converts are not chosen."""

import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.backends.backend import find_tactics
from torch2rt.backends.cpu import backend as cpu
from torch2rt.build.timing_cache import TimingCache
from torch2rt.errors import NoTacticError


@pytest.fixture
def without_onednn(monkeypatch):
    """Convolutions by Winograd alone, which reads no row-major layout; nothing else reformats."""
    found = {
        name: tactic
        for name, tactic in find_tactics("torch2rt.backends.cpu.tactics").items()
        if ".onednn." not in name and not name.endswith(".mkldnn") and name != "reformat.numpy.copy"
    }
    monkeypatch.setattr(cpu, "onednn_unavailable", lambda: "taken away by the test")
    monkeypatch.setattr(cpu.CpuBackend, "tactics", property(lambda backend: dict(found)))


def test_a_reformat_that_nothing_does_is_refused_not_planned(without_onednn):
    model = nn.Conv2d(16, 16, 3, padding=1).eval()
    with pytest.raises(NoTacticError, match=r"nothing goes from .*:plain to"):
        torch2rt.convert(
            model, torch.randn(1, 16, 28, 28), timing_cache=TimingCache(), progress=False
        )


def test_a_fallback_that_refuses_random_operands_still_converts():
    class Cholesky(nn.Module):
        def forward(self, x):
            return torch.linalg.cholesky(x @ x.mT + torch.eye(3))

    x = torch.randn(2, 3, 3)
    rt = torch2rt.convert(Cholesky(), x, timing_cache=TimingCache(), progress=False)
    torch.testing.assert_close(rt(x), Cholesky()(x), rtol=1e-4, atol=1e-5)
