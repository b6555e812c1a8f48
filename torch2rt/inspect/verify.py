"""Compares an engine with the model it was made from, and names the first layer that is off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from torch2rt.backends.reference.executor import run_network
from torch2rt.calls.pytree import OutputSpec
from torch2rt.engine.engine import Engine
from torch2rt.errors import VerificationError
from torch2rt.inspect.bisect import first_off
from torch2rt.inspect.tolerance import NETWORK, relative_error
from torch2rt.network.network import Network

# How much worse an engine may be than the model's own rounding error at that precision.
_ALLOWED_OVER_EAGER = {"fp32": 4.0, "bf16": 1.5}


def verify_engine(
    engine: Engine, network: Network, inputs: Sequence[torch.Tensor],
    expected: Sequence[torch.Tensor], what: str,
) -> dict[str, float]:
    """Relative error of each output against the model's own outputs for these inputs.

    An output further off than the tolerance of the engine's precision is judged again against
    ``network`` (the captured one, before any pass) in float64: it may be a few times as far from
    that as the model is when it computes in that precision. VerificationError names the output
    and the first layer that is off.
    """
    got = run_engine(engine, inputs)
    names = [binding.name for binding in engine.bindings.outputs]
    errors = {
        name: relative_error(result, want)
        for name, result, want in zip(names, got, expected, strict=True)
    }
    limit = NETWORK[engine.precision]
    worst = max(errors, key=lambda name: errors[name], default=None)
    if worst is None or errors[worst] <= limit:
        return errors
    of_eager = _eager_error(network, inputs, expected, names, engine.precision)[worst]
    allowed = max(limit, _ALLOWED_OVER_EAGER[engine.precision] * of_eager)
    if errors[worst] <= allowed:
        return errors
    raise _failure(engine, inputs, what, worst, errors[worst], allowed)


def agrees(
    engine: Engine, model: nn.Module, inputs: Sequence[torch.Tensor], args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> bool:
    """Whether the engine's outputs are within tolerance of the model's for these arguments."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            _, expected = OutputSpec.from_value(model(*args, **kwargs))
    finally:
        for module, is_training in modes:
            module.training = is_training
    pairs = zip(run_engine(engine, inputs), expected, strict=True)
    return all(relative_error(got, want) <= NETWORK[engine.precision] for got, want in pairs)


def run_engine(engine: Engine, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The engine's outputs for tensors in the order of its bindings."""
    tensors = [tensor.detach().contiguous() for tensor in inputs]
    runnable = engine.runnable(tuple(tuple(tensor.shape) for tensor in tensors))
    outputs = [
        torch.empty(spec.shape, dtype=getattr(torch, spec.dtype.value))
        for spec in runnable.output_specs
    ]
    runnable.run([t.data_ptr() for t in tensors], [t.data_ptr() for t in outputs])
    return outputs


def _eager_error(
    network: Network, inputs: Sequence[torch.Tensor], expected: Sequence[torch.Tensor],
    names: Sequence[str], precision: str,
) -> dict[str, float]:
    """How far the model itself is from float64 at a precision; ``expected`` is its fp32 result."""
    exact = _run_in(network, inputs, torch.float64)
    found = dict(zip(names, expected, strict=True))
    if precision == "bf16":
        found = _run_in(network, inputs, torch.bfloat16)
    return {name: relative_error(found[name], exact[name]) for name in names}


def _run_in(
    network: Network, inputs: Sequence[torch.Tensor], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    cast = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in zip(network.inputs, inputs, strict=True)
    }
    return run_network(network, cast, dtype=dtype)


def _failure(
    engine: Engine, inputs: Sequence[torch.Tensor], what: str, output: str, error: float,
    allowed: float,
) -> VerificationError:
    found = first_off(engine, inputs)
    return VerificationError(
        inputs=what, output=output, error=error, allowed=allowed,
        finding="First layer that is off" if found and found.is_off else
        "No layer is off by itself, so errors add up or layers disturb each other; the worst is",
        layer=found.layer if found else "none", kind=found.kind if found else "",
        tactic=found.tactic if found else "", where=found.where if found else "",
        layer_error=found.error if found else 0.0,
    )
