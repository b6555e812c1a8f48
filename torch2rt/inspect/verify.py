"""Compares an engine with the model it was made from, and names the first layer that is off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from torch2rt.backends.reference.executor import run_network
from torch2rt.calls.pytree import OutputSpec
from torch2rt.engine.engine import Engine
from torch2rt.errors import OverflowInPrecisionError
from torch2rt.inspect.bisect import first_off, first_overflow
from torch2rt.inspect.choices import Choices, errors_beside, hanging_outputs
from torch2rt.inspect.failure import failure, step_facts
from torch2rt.inspect.plugins import check_plugins
from torch2rt.inspect.tolerance import NETWORK, relative_error
from torch2rt.inspect.verify_quantized import (
    NONSENSE,
    check_quantized,
    is_quantized,
    stores_weights,
)
from torch2rt.network.network import Network

# How much worse an engine may be than the model's own rounding error at that precision.
_ALLOWED_OVER_EAGER = {"fp32": 4.0, "tf32": 1.5, "fp16": 1.5, "bf16": 1.5}
_LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


def verify_engine(
    engine: Engine, network: Network, inputs: Sequence[torch.Tensor],
    expected: Sequence[torch.Tensor], what: str, *, is_judged: bool = False,
) -> dict[str, float]:
    """Relative error of each output against the model's own outputs for these inputs.

    An output further off than the tolerance of the engine's precision is judged again against
    ``network`` (the captured one, before any pass) in float64: it may be a few times as far from
    that as the model is when it computes in that precision. What is quantized is judged by
    `check_quantized`, how much it loses by that only where no metric of the user's has
    (``is_judged``); what hangs on choices, such as which box is kept, with the engine's own
    choices (see `inspect.choices`). VerificationError names the output and the first layer that is
    off; OverflowInPrecisionError, the one that leaves the range.
    PluginError names a plugin that writes where it must not.
    """
    check_plugins(engine, inputs)
    names = [binding.name for binding in engine.bindings.outputs]
    # What is replayed later on a device is not what its first run does: the worst run counts.
    runs = [run_engine(engine, inputs) for _ in range(engine.backend.runs_to_settle)]
    errors = {
        name: max(relative_error(got[index], want.to(got[index].device)) for got in runs)
        for index, (name, want) in enumerate(zip(names, expected, strict=True))
    }
    limit = NETWORK.get(engine.precision, 0.0)
    worst = max(errors, key=lambda name: errors[name], default=None)
    if worst is None or errors[worst] <= limit:
        return errors
    if hanging_outputs(network) & {name for name in names if errors[name] > limit}:
        chosen = check_choices(engine, network, inputs, what)
        if chosen is not None:
            return chosen
    if is_quantized(engine.network) or stores_weights(engine.network):
        return check_quantized(engine, runs, inputs, expected, what, is_judged=is_judged)
    if math.isinf(errors[worst]) and engine.precision == "fp16":
        _check_overflow(engine, inputs, what, worst)
    of_eager = _eager_error(engine, network, inputs, expected, names)[worst]
    allowed = limit
    if math.isfinite(of_eager):
        allowed = max(limit, _ALLOWED_OVER_EAGER[engine.precision] * of_eager)
    if errors[worst] <= allowed:
        return errors
    raise failure(engine, inputs, what, worst, errors[worst], allowed)


def check_choices(
    engine: Engine, network: Network, inputs: Sequence[torch.Tensor], what: str
) -> dict[str, float] | None:
    """Relative error of each output beside the model with the engine's choices.

    None where the engine's choices are not those of the captured network. VerificationError names
    the first layer that is off; QuantizationError, what 8 bits take too far from the model.
    """
    placed = [tensor.to(engine.backend.device) for tensor in inputs]
    choices = Choices.of(engine, network, placed)
    if choices is None:
        return None
    with exact_float32():
        wanted = choices.replay(placed, torch.float32)
        exact = choices.replay(placed, torch.float64)
    errors = errors_beside(choices.values(), wanted)
    limits = dict.fromkeys(errors, NONSENSE)
    if not (is_quantized(engine.network) or stores_weights(engine.network)):
        beside = _eager_with(choices, placed, engine.precision, wanted)
        factor, limit = _ALLOWED_OVER_EAGER[engine.precision], NETWORK[engine.precision]
        limits = {
            name: max(limit, factor * error) if math.isfinite(error) else limit
            for name, error in errors_beside(beside, exact).items()
        }
    found = first_off(engine, inputs)
    for name, error in errors.items():
        if error > limits[name] or (found is not None and found.is_off):
            raise failure(engine, inputs, what, name, error, limits[name])
    return {name: errors[name] for name in network.outputs}


def _eager_with(
    choices: Choices, inputs: Sequence[torch.Tensor], precision: str,
    in_float32: dict[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """What the model itself computes at a precision, with these choices."""
    if precision in _LOW:
        return choices.replay(inputs, _LOW[precision])
    if precision != "tf32":
        return in_float32
    before = float32_matmuls("tf32")
    try:
        return choices.replay(inputs, torch.float32)
    finally:
        float32_matmuls(*before)


def agrees(
    engine: Engine, model: nn.Module, inputs: Sequence[torch.Tensor], args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> bool:
    """Whether the engine's outputs are within tolerance of the model's for these arguments."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), exact_float32():
            _, expected = OutputSpec.from_value(model(*args, **kwargs))
    finally:
        for module, is_training in modes:
            module.training = is_training
    pairs = zip(run_engine(engine, inputs), expected, strict=True)
    return all(
        relative_error(got, want.to(got.device)) <= NETWORK.get(engine.precision, NONSENSE)
        for got, want in pairs
    )


def run_engine(engine: Engine, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The engine's outputs, on its device, for tensors in the order of its bindings."""
    device = torch.device(engine.backend.device)
    tensors = [tensor.detach().to(device).contiguous() for tensor in inputs]
    runnable = engine.runnable(tuple(tuple(tensor.shape) for tensor in tensors))
    outputs = [
        torch.empty(spec.shape, dtype=getattr(torch, spec.dtype.value), device=device)
        for spec in runnable.output_specs
    ]
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    runnable.run([t.data_ptr() for t in tensors], [t.data_ptr() for t in outputs], stream)
    return outputs


@contextmanager
def exact_float32() -> Iterator[None]:
    """Inside, torch computes float32 on a GPU in float32: by default its convolutions use TF32."""
    before = float32_matmuls("ieee")
    try:
        yield
    finally:
        float32_matmuls(*before)


def float32_matmuls(*modes: str) -> list[str]:
    """Set how torch multiplies float32 on a GPU, "ieee" or "tf32"; what was set before.

    One mode for all, or one each for products, convolutions and recurrent layers.
    """
    switches = [
        torch.backends.cuda.matmul,
        torch.backends.cudnn.conv,  # type: ignore[attr-defined]
        torch.backends.cudnn.rnn,
    ]
    before = [switch.fp32_precision for switch in switches]
    for switch, mode in zip(switches, modes * (len(switches) // len(modes)), strict=True):
        switch.fp32_precision = mode
    return before


def _eager_error(
    engine: Engine, network: Network, inputs: Sequence[torch.Tensor],
    expected: Sequence[torch.Tensor], names: Sequence[str],
) -> dict[str, float]:
    """How far the model itself is from float64 at a precision; ``expected`` is its fp32 result."""
    device = torch.device(engine.backend.device)
    placed = [tensor.to(device) for tensor in inputs]
    exact = _run_in(network, placed, torch.float64)
    if engine.precision in _LOW:
        found = _run_in(network, placed, _LOW[engine.precision])
    elif engine.precision == "tf32":
        before = float32_matmuls("tf32")
        try:
            found = _run_in(network, placed, torch.float32)
        finally:
            float32_matmuls(*before)
    else:
        found = {n: want.to(device) for n, want in zip(names, expected, strict=True)}
    return {name: relative_error(found[name], exact[name]) for name in names}


def _run_in(
    network: Network, inputs: Sequence[torch.Tensor], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    cast = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in zip(network.inputs, inputs, strict=True)
    }
    device = inputs[0].device if inputs else None
    return run_network(network, cast, dtype=dtype, device=device)


def _check_overflow(
    engine: Engine, inputs: Sequence[torch.Tensor], what: str, output: str
) -> None:
    """OverflowInPrecisionError if a layer of the engine leaves the range of its dtype."""
    found = first_overflow(engine, inputs)
    if found is not None:
        raise OverflowInPrecisionError(
            inputs=what, output=output, precision=engine.precision, **step_facts(found)
        )
