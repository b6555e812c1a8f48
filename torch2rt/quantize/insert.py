"""Puts quantize and dequantize layers where 8 bits pay, and folds them into 8-bit layers.

Before: %y = convolution(%x, @w, @b, %r) epilogue relu(add(add(i0,i1),i2))
After:  %x8 = quantize(%x, @s)           (by whoever writes %x, in its epilogue, after fusion)
        %y = convolution(%x8, @w8, @sw, @b, %r8, @sr)
             epilogue relu(add(add(mul(to_float32(i0),i1),i2),mul(to_float32(i3),i4)))

Quantized are contractions with constant weights: their weights, symmetric, one scale per output
channel; their inputs, one scale per tensor; and tensors that their epilogues add to the result.
So are the inputs of plugins that take int8.
Tensors between which values only move (max pooling, concat, reshape, ...) share one scale, so
that those layers work on the stored bytes: that of the largest threshold, of the thresholds that a
user edited where there are any. Where one of them has no range, none is quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from torch2rt.fusions.base import Fuse, fusions_between
from torch2rt.fusions.dequantize_after_move import moves_values
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.dequantize import Dequantize
from torch2rt.layers.matmul import Matmul
from torch2rt.layers.plugin import Plugin
from torch2rt.layers.quantize import Quantize
from torch2rt.network.dtype import Array, DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Log, run_passes
from torch2rt.passes.pipeline import FOLDING
from torch2rt.quantize.bias import add_bias
from torch2rt.quantize.table import CalibrationTable

NAME = "quantize"
# Weights whose largest magnitude is below this are zeros for any scale that float32 holds.
SMALLEST_WEIGHT = 1e-30

# The precision a user wants for a layer, None for the network's.
Overrides = Callable[[Layer], "str | None"]


class Range(Protocol):
    """Magnitude to keep of a tensor, and whether it has no negative values."""

    @property
    def threshold(self) -> float:
        """The largest magnitude that is kept."""

    @property
    def is_nonnegative(self) -> bool:
        """Whether no negative value was seen."""


class Ranges(Protocol):
    """What insertion asks of a calibration table."""

    def range(self, name: str) -> Range | None:
        """Range of a tensor by name, None for one that is not to be quantized."""

    def is_edited(self, name: str) -> bool:
        """Whether a user set the threshold of a tensor that has a range."""


def insert_quantization(
    network: Network, table: Ranges, *, target: str, overrides: Overrides | None = None,
    log: Log | None = None, fold: bool = True,
) -> None:
    """Quantize an optimised float32 network in place, with the ranges of a table.

    ``target`` is the backend: "cpu" stores tensors without negative values as uint8, which its
    products want; "cuda" stores all as int8. ``overrides`` tells for a layer which precision it
    is to have: those it gives another than "int8" stay as they are. Without ``fold`` contractions
    go on computing in float, on what dequantize layers give them.
    """
    log = log if log is not None else Log()
    _Insertion(network, table, target, overrides or (lambda _: None), log).run()
    if fold:
        run_passes(network, [Fuse("fold_quantization", fusions_between(*FOLDING, target))], log=log)


@dataclass
class Group:
    """Tensors of one scale, and what the table says of them together.

    The threshold is 0 where the table has nothing to say of one of them, ``unknown``.
    """

    tensors: list[Tensor] = field(default_factory=list)
    threshold: float = 0.0
    is_nonnegative: bool = True
    unknown: Tensor | None = None

    def read(self, table: Ranges) -> None:
        """Take in the ranges of all members; thresholds that a user edited count alone."""
        ranges = {}
        for tensor in self.tensors:
            found = table.range(tensor.name)
            if found is None:
                self.unknown = tensor
                return
            ranges[tensor.name] = found
        thresholds = {name: found.threshold for name, found in ranges.items()}
        if len({*thresholds.values()}) > 1:
            edited = {n: t for n, t in thresholds.items() if table.is_edited(n)}
            thresholds = edited or thresholds
        self.threshold = max(thresholds.values())
        self.is_nonnegative = all(found.is_nonnegative for found in ranges.values())

    def stored(self, target: str) -> tuple[DType, int, int]:
        """How a backend stores them: the dtype, its lowest and its highest integer."""
        if target == "cpu" and self.is_nonnegative:
            return DType.UINT8, 0, 255
        return DType.INT8, -128, 127


def groups_to_quantize(
    network: Network, table: Ranges, *, target: str, overrides: Overrides | None = None
) -> list[Group]:
    """What `insert_quantization` would store in 8 bits."""
    return _Insertion(network, table, target, overrides or (lambda _: None), Log()).groups_needed()


class _Insertion:
    def __init__(
        self, network: Network, table: Ranges, target: str, overrides: Overrides, log: Log
    ) -> None:
        self.network = network
        self.target = target
        self.log = log
        self.groups = _groups(network, table)
        self.corrections = table.corrections if isinstance(table, CalibrationTable) else {}
        self.layers = [layer for layer in network.layers if self._is_wanted(layer, overrides)]

    def run(self) -> None:
        """Weights, then the tensors that the layers read."""
        wanted, needed = set(self.layers), self.groups_needed()
        for layer in self.layers:
            if not isinstance(layer.kind, Plugin):
                self._quantize_weight(layer)
            self.log.fire(NAME, layer)
        for group in needed:
            for tensor in group.tensors:
                producer = tensor.producer
                if producer is None or not moves_values(producer):
                    self._quantize_tensor(tensor, group, wanted)

    def groups_needed(self) -> list[Group]:
        """The groups of what the layers read and add, in their order."""
        wanted = set(self.layers)
        needed: dict[int, Group] = {}
        for layer in self.layers:
            tensors = [*self._operands(layer), *self._residuals(layer, wanted)]
            needed.update((id(self.groups[t]), self.groups[t]) for t in tensors)
        return list(needed.values())

    def _operands(self, layer: Layer) -> list[Tensor]:
        """The tensors that a layer reads in 8 bits: a plugin's that have a range."""
        if not isinstance(layer.kind, Plugin):
            return [layer.inputs[0]]
        return [t for t in layer.main_inputs if t in self.groups and self.groups[t].threshold > 0]

    def _is_wanted(self, layer: Layer, overrides: Overrides) -> bool:
        is_plugin = isinstance(layer.kind, Plugin) and layer.kind.computes_in(DType.INT8)
        if not is_plugin and not isinstance(layer.kind, Convolution | Matmul):
            return False
        reason = self._refusal(layer)
        precision = overrides(layer)
        if precision not in (None, "int8"):
            reason = f"it is to be {precision}"
        if reason is not None:
            self.log.reject(NAME, layer, reason)
        return reason is None

    def _refusal(self, layer: Layer) -> str | None:
        if isinstance(layer.kind, Plugin):
            return None if self._operands(layer) else "no range is known of what it reads"
        x, weight = layer.main_inputs
        if not weight.is_constant or weight.dtype is not DType.FLOAT32:
            return "its second operand is no float32 constant"
        if isinstance(layer.kind, Matmul) and weight.rank != 2:
            return "its weight is no matrix"
        group = self.groups.get(x)
        if x.is_constant or group is None or group.threshold <= 0:
            unknown = group.unknown if group is not None and group.unknown is not None else x
            return f"no range is known of {unknown.name}"
        return None

    def _residuals(self, layer: Layer, wanted: set[Layer]) -> list[Tensor]:
        """The tensors its epilogue adds that 8-bit layers write or read, and no float layer reads.

        The residual stream of a transformer, which layer norms read, has outliers that one scale
        does not serve.
        """
        found = []
        for tensor in layer.epilogue_inputs:
            group = self.groups.get(tensor)
            if group is None or group.threshold <= 0 or tensor.shape != layer.output.shape:
                continue
            members = group.tensors
            readers = {user for t in members for user in t.users if not moves_values(user)}
            is_near = any(t.producer in wanted for t in members) or readers & wanted
            if is_near and readers <= wanted:
                found.append(tensor)
        return found

    def _quantize_weight(self, layer: Layer) -> None:
        weight = layer.main_inputs[1]
        assert weight.data is not None
        is_columns = isinstance(layer.kind, Matmul) and not layer.kind.transpose_b
        stored, scale = quantize_weight(weight.data, weight.rank - 1 if is_columns else 0)
        correction = self.corrections.get(layer.output.name)
        if correction is not None:
            stored = correction.weight(stored)
            add_bias(self.network, layer, correction.bias)
        constants = [
            self.network.add_constant(f"{weight.name}.int8", stored),
            self.network.add_constant(f"{weight.name}.scale", scale),
        ]
        restored = self.network.add(
            Dequantize(), constants, before=layer, name=f"{layer.name}.weight",
            origins=layer.origins,
        )
        inputs = list(layer.inputs)
        inputs[1] = restored.output
        self.network.set_inputs(layer, tuple(inputs))

    def _quantize_tensor(self, tensor: Tensor, group: Group, wanted: set[Layer]) -> None:
        """A quantize and a dequantize layer behind a tensor, for all who read it.

        A network input stays what it is for layers that compute in float.
        """
        dtype, low, high = group.stored(self.target)
        step = np.array(group.threshold / high, np.float32)
        scale = self.network.add_constant(f"{tensor.name}.scale", step)
        readers = [
            user for user in tensor.users
            if tensor.producer is not None or user in wanted or moves_values(user)
        ]
        first = min(readers, key=self.network.position)
        origins = tensor.producer.origins if tensor.producer is not None else first.origins
        stored = self.network.add(
            Quantize(dtype, low, high), [tensor, scale], before=first,
            name=f"{tensor.name}.{dtype.value}", origins=origins,
        )
        restored = self.network.add(
            Dequantize(), [stored.output, scale], before=first,
            name=f"{tensor.name}.restored", origins=origins,
        )
        for user in readers:
            inputs = tuple(restored.output if t is tensor else t for t in user.inputs)
            self.network.set_inputs(user, inputs)


def quantize_weight(weight: Array, axis: int) -> tuple[Array, Array]:
    """A weight as int8, -127..127, and its scales along an axis, shaped to broadcast to it.

    An output channel of zeros has the scale 1.
    """
    others = tuple(index for index in range(weight.ndim) if index != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True, initial=0.0)
    scale = np.where(largest > SMALLEST_WEIGHT, largest / 127, 1.0).astype(np.float32)
    stored = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
    return stored, scale


def thresholds_of(network: Network, table: Ranges) -> dict[Tensor, float]:
    """The threshold of every float32 tensor, that of its group; 0 where none is known."""
    return {tensor: group.threshold for tensor, group in _groups(network, table).items()}


def _groups(network: Network, table: Ranges) -> dict[Tensor, Group]:
    """The group of every float32 tensor: itself, and all that values only move between."""
    groups: dict[Tensor, Group] = {}
    for tensor in (*network.inputs.values(), *_results(network)):
        if tensor.dtype is not DType.FLOAT32 or tensor in groups:
            continue
        group = Group()
        _gather(tensor, group, groups)
        group.read(table)
    return groups


def _results(network: Network) -> Iterable[Tensor]:
    return (output for layer in network.layers for output in layer.outputs)


def _gather(start: Tensor, group: Group, groups: dict[Tensor, Group]) -> None:
    waiting = [start]
    while waiting:
        tensor = waiting.pop()
        if tensor in groups or tensor.is_constant:
            continue
        groups[tensor] = group
        group.tensors.append(tensor)
        layers = [*tensor.users, *([tensor.producer] if tensor.producer is not None else [])]
        for layer in layers:
            if moves_values(layer):
                waiting += [*layer.inputs, *layer.outputs]
