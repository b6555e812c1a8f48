"""Verification of what is chosen: which box is kept, which class is the largest.

Where two values are nearly equal, the smallest rounding makes a choice fall the other way, and what
comes out has little to do with what the model gives. So results that hang on choices are judged
with the engine's own choices: the captured network is run again, every layer that chooses giving
what it gave in the engine. Then what is chosen from and what comes out must agree as ever; and each
choice must be right for what it was made from, which is what comparing step by step tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from torch2rt.backends.reference.executor import NetworkRunner
from torch2rt.engine.context import Context
from torch2rt.engine.engine import Engine
from torch2rt.inspect.bisect import bind_context, run_steps
from torch2rt.inspect.tolerance import relative_error
from torch2rt.network.dtype import DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor

_INDICES = (DType.INT64, DType.INT32, DType.INT16)


def chooses(layer: Layer) -> bool:
    """Whether floats decide over integers: the largest, the first, those that are kept."""
    return any(output.dtype in _INDICES for output in layer.outputs) and any(
        tensor.dtype.is_float for tensor in layer.inputs
    )


def hanging_outputs(network: Network) -> set[str]:
    """Names of outputs that depend on a layer that chooses."""
    chosen: set[Tensor] = set()
    for layer in network.layers:
        if chooses(layer) or any(tensor in chosen for tensor in layer.inputs):
            chosen.update(layer.outputs)
    return {name for name, tensor in network.outputs.items() if tensor in chosen}


@dataclass(frozen=True)
class Choices:
    """One run of an engine: what every choosing layer of the captured network read and gave."""

    network: Network
    made: Mapping[str, tuple[list[torch.Tensor], list[torch.Tensor]]]
    outputs: Mapping[str, torch.Tensor]

    @classmethod
    def of(
        cls, engine: Engine, network: Network, inputs: Sequence[torch.Tensor]
    ) -> Choices | None:
        """None if the engine's choosing layers are not those of the captured network."""
        names = _matched(network.layers, engine.network.layers)
        if names is None:
            return None
        runnable = engine.runnable(tuple(tuple(tensor.shape) for tensor in inputs))
        context = Context(runnable.executable)
        device = torch.device(engine.backend.device)
        held = bind_context(context, runnable, inputs, device)
        made = {
            names[step.spec.name]: (operands, results)
            for step, operands, results in run_steps(engine, context, runnable)
            if step.plan_step.layer and step.spec.name in names
        }
        rows = zip(
            runnable.output_names, runnable.output_specs, held[len(inputs) :], strict=True
        )
        outputs = {
            name: raw[: spec.size_bytes].view(getattr(torch, spec.dtype.value)).reshape(spec.shape)
            for name, spec, raw in rows
        }
        return cls(network, made, outputs) if len(made) == len(names) else None

    def replay(
        self, inputs: Sequence[torch.Tensor], dtype: torch.dtype
    ) -> dict[str, torch.Tensor]:
        """The captured network with these choices: its outputs, and what was chosen from."""
        found: dict[str, torch.Tensor] = {}

        def decide(
            layer: Layer, read: tuple[torch.Tensor, ...], gave: tuple[torch.Tensor, ...]
        ) -> tuple[torch.Tensor, ...]:
            if layer.name not in self.made:
                return gave
            found.update(_floats(layer.name, read))
            given = self.made[layer.name][1]
            return tuple(
                own.to(like.device, like.dtype) for own, like in zip(given, gave, strict=True)
            )

        device = inputs[0].device
        bound = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in zip(self.network.inputs, inputs, strict=True)
        }
        runner = NetworkRunner(self.network, dtype=dtype, device=device)
        return {**runner.run(bound, decide=decide), **found}

    def values(self) -> dict[str, torch.Tensor]:
        """The engine's outputs, and what it chose from."""
        read = {
            key: value for name, (operands, _) in self.made.items()
            for key, value in _floats(name, operands).items()
        }
        return {**self.outputs, **read}


def errors_beside(
    found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """The relative error of each value."""
    return {
        name: relative_error(found[name], want.to(found[name].device))
        for name, want in wanted.items()
    }


def _floats(name: str, tensors: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        f"input {index} of {name}": tensor for index, tensor in enumerate(tensors)
        if tensor.is_floating_point()
    }


def _matched(captured: Iterable[Layer], ours: Iterable[Layer]) -> dict[str, str] | None:
    """The captured layer's name by ours, for layers that choose."""
    theirs = [layer for layer in captured if chooses(layer)]
    own = [layer for layer in ours if chooses(layer)]
    if {layer.name for layer in theirs} == {layer.name for layer in own}:
        return {layer.name: layer.name for layer in own}
    if [layer.kind.name for layer in theirs] != [layer.kind.name for layer in own]:
        return None
    return {mine.name: other.name for mine, other in zip(own, theirs, strict=True)}
