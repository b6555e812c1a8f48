"""Models with data-dependent control flow: refused as one graph, converted as pieces."""

import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.capture.errors import CaptureError


class Decides(nn.Module):
    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(x * 2)
        if x.sum() > 10:
            return self.large(x)
        return self.small(x)


def test_convert_refuses_and_says_what_to_do():
    with pytest.raises(CaptureError, match="convert_pieces"):
        torch2rt.convert(Decides(), torch.randn(2, 4), progress=False)


# torch.compile's own imports warn; what it prints is not ours.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_pieces_take_both_ways(tmp_path):
    model = Decides().eval()
    pieces = torch2rt.convert_pieces(model, timing_cache=tmp_path / "t.jsonl", progress=False)
    for x in (torch.full((2, 4), 9.0), torch.full((2, 4), 0.1), torch.full((2, 4), 8.0)):
        with torch.no_grad():
            torch.testing.assert_close(pieces(x), model(x), rtol=1e-4, atol=1e-5)
