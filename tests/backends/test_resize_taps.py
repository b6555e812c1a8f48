"""Taps of a resize against torch in float64."""

import pytest
import torch

from torch2rt.backends.resize_taps import resize_taps
from torch2rt.layers.resize import Resize

SIZES = [(7, 14), (8, 3), (5, 5), (1, 4), (9, 1), (10, 25), (32, 7)]


@pytest.mark.parametrize(("before", "after"), SIZES)
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize(("mode", "align_corners"), [
    ("nearest", False), ("nearest_exact", False), ("linear", False), ("linear", True),
    ("cubic", False), ("cubic", True), ("linear_antialias", False), ("linear_antialias", True),
    ("cubic_antialias", False), ("cubic_antialias", True),
])
def test_taps(mode, align_corners, before, after, scale):
    torch.manual_seed(0)
    # 0.98: a scale that is not the quotient of the sizes.
    scales = (after / before * 0.98, None) if scale else (None, None)
    kind = Resize(mode, (after, 3), scales, align_corners)
    x = torch.randn(1, 1, before, 3, dtype=torch.float64)
    (want,) = kind.reference([x])
    taps = resize_taps(kind, before, after, scales[0])
    rows = x[0, 0][torch.from_numpy(taps.rows)]
    if taps.weights is not None:
        rows = rows * torch.from_numpy(taps.weights)[..., None]
    torch.testing.assert_close(rows.sum(0), want[0, 0], rtol=0, atol=1e-12)
