"""Rounds weights so that a layer's results change least, instead of each to its nearest.

Column after column of the weight is rounded, and what that takes from the result on calibration
data is given back by the columns that are still free. Means count too: a filter of differences
must stay blind to a brighter input. It minimises what AdaRound minimises, in closed form.
Source: Frantar et al. 2022, GPTQ (arXiv 2210.17323), with ranges as they are.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from torch2rt.layers.convolution import Convolution
from torch2rt.layers.matmul import Matmul
from torch2rt.network.layer import LayerKind

LARGEST = 127
_BLOCK = 128  # columns that are rounded before the others hear of it
_DAMPING = 0.01  # of the mean square, added to each
_POSITIONS = 8192  # of the input, that are looked at
# Of wider weights the errors average out, and a matrix of so many squared is slow to invert.
_MOST_COLUMNS = 2304
_MOST_TAPS = 1 << 26  # of a convolution's input, laid out as columns


def round_weight(
    kind: LayerKind, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor | None:
    """The weight in steps of ``scale``, integers -127..127 as floats, of the weight's shape.

    ``x`` is what the layer reads, on calibration data. ``scale`` has one number per output
    channel and broadcasts to the weight. None for what keeps to the nearest: products with several
    axes of columns, convolutions that are not over two axes, very wide weights.
    """
    columns = _columns(kind, x, weight)
    if columns is None or columns.shape[-1] > _MOST_COLUMNS:
        return None
    rows, steps = _rows(kind, weight), _rows(kind, scale.expand(weight.shape))[..., :1]
    rounded = _round_rows(rows, steps, _moments(columns))
    if isinstance(kind, Matmul) and not kind.transpose_b:
        return rounded[0].T.reshape(weight.shape)
    return rounded.reshape(weight.shape)


def _rows(kind: LayerKind, weight: torch.Tensor) -> torch.Tensor:
    """A weight as [groups, output channels of one, columns], in float64."""
    if isinstance(kind, Convolution):
        return weight.reshape(kind.groups, weight.shape[0] // kind.groups, -1).double()
    is_columns = isinstance(kind, Matmul) and not kind.transpose_b
    return (weight.T if is_columns else weight)[None].double()


def _columns(kind: LayerKind, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor | None:
    """What the columns of the weight are multiplied with: [groups, positions, columns]."""
    if isinstance(kind, Matmul):
        return _thinned(x.reshape(1, -1, x.shape[-1])) if weight.dim() == 2 else None
    if not isinstance(kind, Convolution) or x.dim() != 4:
        return None
    (top, left), (bottom, right) = kind.padding_before, kind.padding_after
    height, width = weight.shape[2:]
    samples = max(1, _MOST_TAPS // max(1, x[0].numel() * height * width))
    x = x[:samples]
    padded = functional.pad(x, (left, right, top, bottom))
    if height == width == 1:
        taps = padded[:, :, :: kind.stride[0], :: kind.stride[1]].flatten(2)
    else:
        taps = functional.unfold(padded, (height, width), kind.dilation, 0, kind.stride)
    grouped = taps.reshape(len(x), kind.groups, -1, taps.shape[-1])
    return _thinned(grouped.permute(1, 0, 3, 2).reshape(kind.groups, -1, grouped.shape[2]))


def _thinned(columns: torch.Tensor) -> torch.Tensor:
    """Not all of very many positions; the step is odd, so that it meets all places of a row."""
    step = max(1, columns.shape[1] // _POSITIONS)
    return columns[:, :: step | 1].double()


def _moments(columns: torch.Tensor) -> torch.Tensor:
    """Second moments of the columns, drawn to their diagonal where the positions are few."""
    positions, count = columns.shape[1:]
    moments = columns.mT @ columns / positions
    squares = moments.diagonal(dim1=1, dim2=2)
    drawn = positions / (positions + count) * moments
    drawn.diagonal(dim1=1, dim2=2).copy_(
        squares + _DAMPING * squares.mean(1, keepdim=True) + 1e-12
    )
    return drawn


def _round_rows(
    rows: torch.Tensor, steps: torch.Tensor, moments: torch.Tensor
) -> torch.Tensor:
    """Integers [groups, rows, columns]; errors move on by the inverse's Cholesky factor."""
    inverse = torch.linalg.inv(moments)
    factor = torch.linalg.cholesky(inverse, upper=True)
    left, rounded = rows.clone(), torch.empty_like(rows)
    count = rows.shape[-1]
    for start in range(0, count, _BLOCK):
        end = min(start + _BLOCK, count)
        errors = torch.empty_like(rows[..., start:end])
        for column in range(start, end):
            wanted = left[..., column, None]
            nearest = (wanted / steps).round().clamp(-LARGEST, LARGEST)
            rounded[..., column] = nearest[..., 0]
            error = (wanted - nearest * steps) / factor[:, column, column, None, None]
            left[..., column:end] -= error * factor[:, None, column, column:end]
            errors[..., column - start] = error[..., 0]
        left[..., end:] -= errors @ factor[:, start:end, end:]
    return rounded
