"""The path of inputs with NaN or infinity.

oneDNN's activations, whether torch calls them or we do, and ours compare with instructions that
drop NaN: relu(NaN) is 0 there and NaN in torch.
A call whose inputs are not all finite therefore runs through each layer's reference, which is slow
and does what torch does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from torch2rt.errors import InputError
from torch2rt.network.dtype import Array

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.engine.context import Executable
    from torch2rt.engine.engine import Engine


# Libraries, and variants of torch's, whose activations are written so.
_DROPPING = frozenset(("onednn", "winograd", "mkldnn"))

# Up to so many elements the calls cost more than the passes.
_FEW = 4096


def drops_nan(executable: Executable) -> bool:
    """Whether a step of the plan may turn a NaN into a number."""
    return any(
        step.plan_step.layer and _DROPPING.intersection(step.plan_step.tactic.split("."))
        for step in executable.steps
    )


def is_finite(array: Array) -> bool:
    """Whether there is no NaN and no infinity; bits of a float that numpy lacks count as finite."""
    if array.dtype.kind != "f" or not array.size:
        return True
    if array.size <= _FEW:  # one pass; a sum beyond the range takes the slow path, rightly
        return math.isfinite(np.add.reduce(array, axis=None))
    return math.isfinite(np.maximum.reduce(array, axis=None)) and math.isfinite(
        np.minimum.reduce(array, axis=None)
    )


def run_arrays(engine: Engine, arrays: Sequence[Array]) -> list[Array]:
    """The outputs for arrays in the order of the bindings.

    InputError where torch, which computes them, is not installed.
    """
    try:
        from torch2rt.torch_values import constant_from_torch, constant_to_torch
    except ModuleNotFoundError as error:
        names = [b.name for b, a in zip(engine.bindings.inputs, arrays, strict=True)
                 if not is_finite(a)]
        raise InputError(
            name=names[0], reason="it contains NaN or infinity", expected="finite numbers",
            got="NaN or infinity",
            remedy="Without torch an engine cannot carry them through; clean the input, or "
            "install torch.",
        ) from error
    tensors = [
        constant_to_torch(array, binding.type.dtype)
        for array, binding in zip(arrays, engine.bindings.inputs, strict=True)
    ]
    return [constant_from_torch(tensor)[0] for tensor in run_tensors(engine, tensors)]


def run_tensors(engine: Engine, tensors: Sequence[TorchTensor]) -> list[TorchTensor]:
    """The outputs for torch tensors in the order of the bindings."""
    from torch2rt.backends.reference.executor import run_network

    names = [binding.name for binding in engine.bindings.inputs]
    outputs = run_network(engine.network, dict(zip(names, tensors, strict=True)))
    return [outputs[binding.name] for binding in engine.bindings.outputs]
