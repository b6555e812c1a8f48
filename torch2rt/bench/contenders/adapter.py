"""The model as a function of a flat list of tensors, for libraries that know no pytrees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from torch2rt.bench.source import LoadedModel

if TYPE_CHECKING:
    from torch2rt.bench.values import Array

_CALIBRATION_SAMPLES = 16


class FlatModel(nn.Module):
    """Calls ``model`` with tensors given by position and returns its tensors as a flat tuple.

    Inputs: the tensors of ``loaded.args`` and ``loaded.kwargs`` in order; values that are no
    tensors are baked in. Outputs: every tensor, depth first.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__()
        self.model = loaded.model
        self.args = loaded.args
        self.kwargs = dict(loaded.kwargs)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the model on ``tensors``, in the order of `flat_inputs`."""
        rest = iter(tensors)
        args = [next(rest) if isinstance(a, torch.Tensor) else a for a in self.args]
        kwargs = {
            key: next(rest) if isinstance(value, torch.Tensor) else value
            for key, value in self.kwargs.items()
        }
        return tuple(_tensors(self.model(*args, **kwargs)))


def flat_inputs(loaded: LoadedModel) -> tuple[torch.Tensor, ...]:
    """The tensors of the example call, contiguous, positional ones first.

    Raises:
        TypeError: an input nests tensors in a container, which `FlatModel` does not open.
    """
    values = (*loaded.args, *loaded.kwargs.values())
    for value in values:
        if isinstance(value, Mapping) or (
            isinstance(value, Sequence) and any(isinstance(v, torch.Tensor) for v in value)
        ):
            raise TypeError("inputs nested in containers cannot be exported; pass tensors")
    return tuple(v.contiguous() for v in values if isinstance(v, torch.Tensor))


def flat_input_arrays(loaded: LoadedModel) -> list[Array]:
    """`flat_inputs` as numpy arrays."""
    return [tensor.numpy() for tensor in flat_inputs(loaded)]


def calibration_samples(loaded: LoadedModel) -> list[tuple[torch.Tensor, ...]]:
    """What libraries that quantize are shown: the example inputs, and variations of them.

    Each variation scales floats by 0.8 to 1.2 and rolls their last axis; all contenders get the
    same.
    """
    tensors = flat_inputs(loaded)
    samples = [tensors]
    for number in range(1, _CALIBRATION_SAMPLES):
        factor = 0.8 + 0.4 * number / (_CALIBRATION_SAMPLES - 1)
        samples.append(tuple(
            (t * factor).roll(7 * number, -1) if t.is_floating_point() else t for t in tensors
        ))
    return samples


def cast_floats(value: object, dtype: torch.dtype, device: str) -> object:
    """``value`` on ``device``, and of ``dtype`` if it is a floating point tensor."""
    if not isinstance(value, torch.Tensor):
        return value
    moved = value.to(device)
    return moved.to(dtype) if moved.is_floating_point() else moved


def cast_loaded(loaded: LoadedModel, dtype: torch.dtype, device: str) -> LoadedModel:
    """The model and inputs in ``dtype`` on ``device``. The model is converted in place."""
    return LoadedModel(
        loaded.model.to(device=device, dtype=dtype),
        tuple(cast_floats(value, dtype, device) for value in loaded.args),
        {key: cast_floats(value, dtype, device) for key, value in loaded.kwargs.items()},
    )


def channels_last(loaded: LoadedModel) -> LoadedModel:
    """The model and its images with channels innermost. The model is converted in place."""

    def moved(value: object) -> object:
        if isinstance(value, torch.Tensor) and value.ndim == 4:
            return value.contiguous(memory_format=torch.channels_last)
        return value

    model = loaded.model
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return LoadedModel(
        model, tuple(map(moved, loaded.args)), {k: moved(v) for k, v in loaded.kwargs.items()}
    )


def _tensors(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
