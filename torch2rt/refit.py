"""New weights for an engine: its plans, kernels and tactics stay, and nothing is timed or compiled.

The model is captured, lowered and optimised as it was when the engine was made: batch norms fold
into the new weights, siblings merge, weights are stored in the engine's precision. If that gives
the engine's network but for the numbers in its constants, the engine's plans run it.

A network may depend on numbers: equal constants become one, a scale of ones and a bias of zeros
vanish, a parameter that is a single number becomes a literal of an expression. Then the network is
another one, and that is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from torch2rt.calls.pytree import CallSpec
from torch2rt.capture.captured import CapturedGraph
from torch2rt.capture.export import capture
from torch2rt.config import BuildConfig
from torch2rt.engine.engine import Engine
from torch2rt.errors import RefitError
from torch2rt.inspect.verify import exact_float32, verify_engine
from torch2rt.inspect.verify_quantized import is_quantized
from torch2rt.lower import Lowered, lower
from torch2rt.network.copy import copy_network
from torch2rt.network.dim import is_symbol, substitute
from torch2rt.network.network import Network
from torch2rt.network.text import text
from torch2rt.passes.base import Log
from torch2rt.passes.pipeline import optimize
from torch2rt.quantize.overrides import PRECISIONS, Overrides, parse_precision
from torch2rt.quantize.steps import in_float32, set_precision
from torch2rt.quantize.table import CalibrationTable
from torch2rt.torch_values import dtype_to_torch

_NOTE = "the weights were replaced by refit"
_SHOWN = 160  # characters of a layer that is not the engine's


def refitted(
    engine: Engine, model: object, tensors: Sequence[torch.Tensor] | None = None, *,
    verify: bool = True,
) -> Engine:
    """An engine like this one, with the weights of a model of the same structure.

    ``tensors`` are example inputs; made up of the engine's bindings where there are none.
    RefitError says what keeps the weights out; CaptureError and VerificationError as `convert`.
    """
    _check(engine, model)
    assert isinstance(model, nn.Module)
    what = "made-up inputs" if tensors is None else "the example inputs"
    tensors = _examples(engine, model) if tensors is None else list(tensors)
    captured, lowered = _captured(engine, model, tensors)
    oracle = copy_network(lowered.network)
    network = _optimised(engine, lowered)
    difference = _difference(text(engine.network), text(network))
    if difference is not None:
        raise RefitError(
            reason=f"the network that they make is another one: {difference}",
            remedy="The model's structure, or numbers that folding looks at (zeros, ones, equal "
            "or single ones), are not those of the engine: convert the model.",
        )
    made = engine.with_constants(network)
    notes = [note for note in engine.report.get("notes", []) if note != _NOTE]
    made.report["notes"] = [*notes, _NOTE]
    if verify:
        with exact_float32():
            expected = captured.run(tensors)
        made.report["verified"] = verify_engine(made, oracle, tensors, expected, what)
    return made


def _check(engine: Engine, model: object) -> None:
    """RefitError for what is no model, and for an engine whose ranges belong to its weights."""
    if isinstance(model, Mapping):
        raise RefitError(
            reason="a state dict does not say how its weights fold into the engine's",
            remedy="Load it into the model: model.load_state_dict(weights); rt.refit(model).",
        )
    if not isinstance(model, nn.Module):
        raise RefitError(
            reason=f"{type(model).__name__} is no nn.Module", remedy="Pass the model.",
        )
    if is_quantized(engine.network):
        raise RefitError(
            reason="the engine computes in 8 bits, by ranges that belong to its weights",
            remedy="Convert the model with calibration data; what the timing cache knows is not "
            "timed again.",
        )


# ---- the model's network, as it was made before -----------------------------------------------


def _captured(
    engine: Engine, model: nn.Module, tensors: Sequence[torch.Tensor]
) -> tuple[CapturedGraph, Lowered]:
    """The model captured and lowered with the engine's inputs."""
    spec = CallSpec.from_json(engine.calls["inputs"])
    args, kwargs = spec.unflatten(tensors)
    found: Network | None = None
    for shapes in _dynamic_shapes(engine.network):
        captured = capture(model, args, kwargs, dynamic_shapes=shapes)
        lowered = lower(captured, name=engine.network.name)
        found = lowered.network
        if captured.call_spec == spec and _inputs(found) == _inputs(engine.network):
            return captured, lowered
    assert found is not None
    raise RefitError(
        reason=f"the model takes {_inputs(found)}, the engine {_inputs(engine.network)}",
        remedy="Convert the model.",
    )


def _examples(engine: Engine, model: nn.Module) -> list[torch.Tensor]:
    """Tensors of the first tuned shapes: small numbers, and zeros where they may be indices."""
    plan = engine.plans[0]
    device = next((t.device for t in (*model.parameters(), *model.buffers())), None)
    random = torch.Generator().manual_seed(0)
    tensors = []
    for binding in engine.bindings.inputs:
        shape = [substitute(dim, plan.symbols) for dim in binding.type.shape]
        dtype = dtype_to_torch(binding.type.dtype)
        if binding.type.dtype.is_float:
            made = torch.randn(shape, generator=random).to(dtype)
        else:
            made = torch.full(shape, dtype is torch.bool, dtype=dtype)
        tensors.append(made.to(device or engine.backend.device))
    return tensors


def _dynamic_shapes(network: Network) -> Iterator[object]:
    """What `capture` may have been asked: nothing, or the free axes by their symbols."""
    yield None
    axes = {
        name: {
            axis: (str(dim), *network.symbols[str(dim)])
            for axis, dim in enumerate(tensor.shape) if str(dim) in network.symbols
        }
        for name, tensor in network.inputs.items() if any(map(is_symbol, tensor.shape))
    }
    if axes:
        yield axes


def _inputs(network: Network) -> str:
    """Names, types and sizes of a network's inputs."""
    limits = [f"{name} in {low}..{high}" for name, (low, high) in network.symbols.items()]
    return ", ".join([*(f"{name}: {t.type}" for name, t in network.inputs.items()), *limits])


def _optimised(engine: Engine, lowered: Lowered) -> Network:
    """The network after the steps of `convert`, in the engine's precision."""
    is_calibrated = engine.calibration is not None
    table = CalibrationTable.from_json(engine.calibration) if engine.calibration else None
    config = BuildConfig(
        precision=engine.precision, overrides=_overrides(engine), device=engine.backend.device,
    )
    network = in_float32(lowered, engine.precision).network
    target = engine.backend.name
    log = optimize(
        network, merge_siblings=not is_calibrated, target="cpu" if is_calibrated else target
    )
    set_precision(network, config, table, log, target)
    if is_calibrated:
        optimize(network, log=Log(), target=target)
    return network


def _overrides(engine: Engine) -> Overrides:
    patterns: Sequence[Any] = engine.report.get(PRECISIONS, ())
    if not patterns:
        return parse_precision(engine.precision)
    return Overrides(tuple((str(a), str(b)) for a, b in patterns), is_by_layer=True)


def _difference(wanted: str, found: str) -> str | None:
    """The first lines in which two networks differ, None for equal ones."""
    if wanted == found:
        return None
    lines = difflib.unified_diff(wanted.splitlines(), found.splitlines(), n=0, lineterm="")
    changed = [line for line in lines if line[:2] not in ("--", "++", "@@")]
    gone = next((line[1:] for line in changed if line[0] == "-"), "nothing")
    come = next((line[1:] for line in changed if line[0] == "+"), "nothing")
    return f"the engine has {_short(gone)}, the model gives {_short(come)}"


def _short(line: str) -> str:
    return repr(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}...")
