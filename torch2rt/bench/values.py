"""Outputs of any library as flat lists of numpy arrays, and how far two such lists are apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from torch2rt.lazy_torch import torch

Array = npt.NDArray[np.generic]


def flat_arrays(outputs: object) -> list[Array]:
    """Every tensor in ``outputs``, depth first, as numpy arrays; floats become float64 or float32.

    Takes torch tensors, numpy arrays, and any nesting of sequences and mappings of them (a
    transformers ``ModelOutput`` is a mapping). Values that are no arrays (None, numbers) are
    left out, since not every library returns them.
    """
    return list(_leaves(outputs))


def _leaves(value: object) -> Iterator[Array]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        if tensor.dtype in (torch.bfloat16, torch.float16):
            tensor = tensor.float()
        yield tensor.numpy()


def relative_error(got: Sequence[Array], expected: Sequence[Array]) -> float:
    """The largest ``|got - expected| / |expected|`` (Euclidean norms) over the outputs.

    Returns infinity where the two cannot be compared or are not finite where the reference is:
    another number of outputs, other shapes, a NaN of one's own.
    """
    if len(got) != len(expected) or not expected:
        return float("inf")
    return max(_relative_error(g, e) for g, e in zip(got, expected, strict=True))


def _relative_error(got: Array, expected: Array) -> float:
    if got.shape != expected.shape:
        return float("inf")
    mine, reference = got.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(reference)
    if not np.array_equal(mine[~finite], reference[~finite], equal_nan=True):
        return float("inf")
    difference = float(np.linalg.norm(mine[finite] - reference[finite]))
    if not np.isfinite(difference):
        return float("inf")
    scale = float(np.linalg.norm(reference[finite]))
    return difference / scale if scale > 0.0 else difference
