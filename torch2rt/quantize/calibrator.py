"""Calibration: runs the optimised float32 network over batches and observes its tensors.

Every tensor of floats is observed that insertion may quantize: the network's inputs and what its
layers give. A layer that only moves elements has the range of its input and is not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from torch2rt.backends.reference.executor import NetworkRunner
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.quantize.errors import NonFiniteError
from torch2rt.quantize.observers import Batch, Seen
from torch2rt.quantize.table import CalibrationTable, Row

# Kinds that give the elements of their input again, all of them.
_MOVES = frozenset({"expand", "reshape", "roll", "transpose"})

Inputs = Mapping[str, torch.Tensor]


@dataclass
class Observations:
    """What was seen so far: of which tensors, in how many samples.

    ``excluded`` were infinite or NaN where the outputs of the network are numbers, as a mask of
    -inf is: they have no range.
    """

    seen: dict[str, Seen] = field(default_factory=dict)
    samples: int = 0
    excluded: set[str] = field(default_factory=set)

    @staticmethod
    def of_table(table: CalibrationTable) -> Observations:
        """What a table was made from, so that calibration goes on."""
        seen = {name: row.seen for name, row in table.rows.items() if row.seen is not None}
        return Observations(seen, table.samples)

    def add(self, batch: Mapping[str, Seen], samples: int) -> None:
        """Take in what one batch showed."""
        for name, seen in batch.items():
            before = self.seen.get(name)
            self.seen[name] = seen if before is None else before.merged(seen)
        self.samples += samples


def observe_batches(
    network: Network, batches: Iterable[Inputs], observations: Observations, *,
    device: torch.device | None = None, count: int | None = None, progress: bool = False,
) -> None:
    """Run a network over batches of inputs by name and take in what its tensors show.

    ``count`` is how many batches there are, where that is known, for the bar. NonFiniteError names
    the first tensor that is NaN or infinite where an output is, and the batch.
    """
    runner = NetworkRunner(network, device=device)
    bar = tqdm(batches, desc=f"calibrate {network.name}", total=count, unit="batch",
               disable=not progress, leave=False)
    for number, inputs in enumerate(bar, start=1):
        batch = Batch()
        for name, tensor in network.inputs.items():
            if tensor.dtype.is_float:
                batch.see(tensor.name, inputs[name])

        def observe(
            layer: Layer, _: tuple[torch.Tensor, ...], results: tuple[torch.Tensor, ...],
            batch: Batch = batch,
        ) -> None:
            if layer.kind.name in _MOVES:
                return
            for output, value in zip(layer.outputs, results, strict=True):
                if output.dtype.is_float:
                    batch.see(output.name, value)

        outputs = runner.run(inputs, observe=observe)
        seen = batch.seen()
        infinite = [name for name, one in seen.items() if not one.is_finite]
        if infinite and not _are_finite(outputs):
            raise _non_finite(network, infinite[0], seen[infinite[0]], number)
        observations.excluded.update(infinite)
        observations.add({n: s for n, s in seen.items() if n not in infinite}, _samples(inputs))


def table_of(
    network: Network, observations: Observations, *, method: str, fingerprint: str,
    before: CalibrationTable | None = None,
) -> CalibrationTable:
    """The table of what was seen. Thresholds that were edited in ``before`` stay."""
    rows: dict[str, Row] = {}
    for name, seen in observations.seen.items():
        if name not in observations.excluded:
            rows[name] = Row.chosen(method, seen, observations.samples)
    for layer in network.layers:
        if layer.kind.name in _MOVES and layer.inputs[0].name in rows:
            rows[layer.output.name] = rows[layer.inputs[0].name]
    table = CalibrationTable(fingerprint, method, observations.samples, rows)
    if before is not None:
        for name, row in before.rows.items():
            if row.is_edited and name in rows:
                table = table.with_threshold(name, row.threshold)
    return table


def observable_names(network: Network) -> list[str]:
    """The names of the tensors that a table of this network has rows for."""
    produced = [output for layer in network.layers for output in layer.outputs]
    tensors: list[Tensor] = [*network.inputs.values(), *produced]
    return [tensor.name for tensor in tensors if tensor.dtype.is_float]


def _are_finite(outputs: Inputs) -> bool:
    """Whether there are outputs of floats and all of them are numbers."""
    floats = [value for value in outputs.values() if value.is_floating_point()]
    return bool(floats) and all(bool(value.isfinite().all()) for value in floats)


def _non_finite(network: Network, name: str, seen: Seen, number: int) -> NonFiniteError:
    layer = network.tensor(name).producer
    is_nan = math.isnan(seen.minimum) or math.isnan(seen.maximum)
    if layer is None:
        kind, module, remedy = "input", "the call", "Look at what the loader gives there."
    else:
        kind, module = layer.kind.name, layer.where
        remedy = "Calibrate with data on which the model itself gives numbers."
    return NonFiniteError(
        batch=number, tensor=name, reason="holds NaN" if is_nan else "holds an infinity",
        kind=kind, module=module, remedy=remedy,
    )


def _samples(inputs: Inputs) -> int:
    """How many samples a batch has: the first axis of its first input."""
    first = next(iter(inputs.values()), None)
    return int(first.shape[0]) if first is not None and first.dim() else 1
