"""Resampling in every mode, to sizes and by scales."""

import pytest
import torch
import torch.nn.functional as F
from layer_testing import check_rule

from torch2rt.layers.resize import Resize


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
def test_images(mode: str) -> None:
    check_rule(
        lambda x: (
            F.interpolate(x, size=(7, 9), mode=mode), F.interpolate(x, scale_factor=2, mode=mode),
            F.interpolate(x, scale_factor=(1.6, 0.7), mode=mode),
            F.interpolate(x, scale_factor=1.6, mode=mode, recompute_scale_factor=True),
            F.interpolate(x, size=(3, 2), mode=mode),
        ),
        torch.randn(2, 3, 5, 6), kinds={"resize"}, tolerance=1e-7,
    )


def test_aligned_corners_and_antialiasing() -> None:
    check_rule(
        lambda x: (
            F.interpolate(x, size=(7, 9), mode="bilinear", align_corners=True),
            F.interpolate(x, scale_factor=2.5, mode="bicubic", align_corners=True),
            F.interpolate(x, size=(3, 3), mode="bilinear", antialias=True),
            F.interpolate(x, size=(3, 3), mode="bicubic", antialias=True),
        ),
        torch.randn(2, 3, 5, 6), kinds={"resize"}, tolerance=1e-7,
    )


def test_lines_and_volumes() -> None:
    check_rule(
        lambda x: (F.interpolate(x, size=9), F.interpolate(x, scale_factor=1.3, mode="linear"),
                   F.interpolate(x, scale_factor=2, mode="nearest-exact")),
        torch.randn(2, 3, 5), kinds={"resize"}, tolerance=1e-7,
    )
    check_rule(
        lambda x: (F.interpolate(x, size=(3, 7, 4)),
                   F.interpolate(x, scale_factor=1.5, mode="trilinear")),
        torch.randn(2, 3, 4, 5, 6), kinds={"resize"}, tolerance=1e-7,
    )


def test_the_same_size_adds_no_layer() -> None:
    check_rule(lambda x: F.interpolate(x, size=(5, 6), mode="bilinear") + 1,
               torch.randn(2, 3, 5, 6), kinds={"pointwise"})


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="no resize 'cubic' of 3 axes"):
        Resize("cubic", (1, 2, 3), (None, None, None))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_bytes_are_repeated(dtype: torch.dtype) -> None:
    x = torch.randint(0, 100, (1, 3, 4, 5)).to(dtype).to(memory_format=torch.channels_last)
    (found,) = Resize("nearest", (8, 10), (2.0, 2.0)).reference([x])
    assert torch.equal(found, x.repeat_interleave(2, 2).repeat_interleave(2, 3))
