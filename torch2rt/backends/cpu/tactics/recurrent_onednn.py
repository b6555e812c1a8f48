"""LSTM, GRU and plain recurrent layers by oneDNN: one primitive per layer, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.layouts import computes_in
from torch2rt.backends.cpu.numpy_expression import widening
from torch2rt.backends.cpu.onednn import (
    Algorithm,
    Arg,
    Cell,
    DataType,
    Direction,
    MemoryDesc,
    PrimitiveDesc,
)
from torch2rt.backends.cpu.steps import Operand, Place, Source, StepBuilder
from torch2rt.backends.cpu.tactics.matmul_onednn import element_type
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.layers.recurrent import Recurrent
from torch2rt.network.dtype import Array, DType

# Where PyTorch's gates stand in oneDNN's order: GRU r z n becomes update, reset, new.
_GATE_ORDER = {"lstm": (0, 1, 2, 3), "gru": (1, 0, 2), "rnn_tanh": (0,), "rnn_relu": (0,)}


class RecurrentLayers(Tactic):
    """Both directions of a layer in one primitive; the layers one after the other."""

    name: ClassVar[str] = "recurrent.onednn.layers"
    kinds: ClassVar[tuple[str, ...]] = ("recurrent",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """float32 and bfloat16, constant weights, states that are not constants."""
        kind = _kind(spec)
        first_weight = 1 + kind.state_count
        if any(name is None for name in spec.constants[first_weight:]):
            return Refusal("the weights are not constants")
        if any(name is not None for name in spec.constants[:first_weight]):
            return Refusal("the sequence or a state is a constant")
        dtype = spec.inputs[0].dtype
        if dtype not in (DType.FLOAT32, DType.BFLOAT16) or not computes_in(dtype):
            return Refusal(f"no recurrent layers in {dtype.value} here")
        return Refusal("an epilogue") if spec.epilogue is not None else None

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Create the primitives and pack the weights."""
        builder = StepBuilder(spec, weights)
        sizes = _sizes(spec)
        element = element_type(spec)
        source: Source = builder.converted(
            Operand(Place("input", 0), sizes.sequence(sizes.features, element)),
            MemoryDesc.plain((sizes.steps, sizes.batch, sizes.features), DataType.f32),
        )
        results: list[tuple[Operand, Operand]] = []
        for layer in range(_kind(spec).layer_count):
            source = _Layer(builder, sizes, layer, element).add(source, results)
        final = Operand(Place("output", 0), sizes.sequence(sizes.width, element))
        results.append((_as_operand(source), final))
        for computed, wanted in results:
            desc = onednn.reorder(computed.desc, wanted.desc)
            builder.execute(desc, {Arg.src: computed, Arg.dst: wanted})
        return builder.finish()


@dataclass(frozen=True, slots=True)
class _Sizes:
    steps: int
    batch: int
    features: int
    hidden: int
    directions: int
    is_batch_first: bool

    @property
    def width(self) -> int:
        """Features of the result."""
        return self.directions * self.hidden

    def sequence(self, features: int, element: DataType) -> MemoryDesc:
        """(steps, batch, features) as the layer's own tensors store it."""
        dims = (self.steps, self.batch, features)
        if not self.is_batch_first:
            return MemoryDesc.plain(dims, element)
        return MemoryDesc.plain(dims, element, (features, self.steps * features, 1))

    def state(self, element: DataType) -> MemoryDesc:
        """(1, directions, batch, hidden)."""
        return MemoryDesc.plain((1, self.directions, self.batch, self.hidden), element)


class _Layer:
    """One layer of the stack."""

    def __init__(
        self, builder: StepBuilder, sizes: _Sizes, number: int, element: DataType
    ) -> None:
        self.builder = builder
        self.sizes = sizes
        self.number = number
        self.element = element
        self.kind = _kind(builder.spec)
        count = self.kind.weights_per_direction
        first = 1 + self.kind.state_count + number * sizes.directions * count
        self.weights = [
            [self._constant(first + direction * count + index) for index in range(count)]
            for direction in range(sizes.directions)
        ]
        self.key = ("recurrent", builder.spec.constants[first])

    def add(self, source: Source, results: list[tuple[Operand, Operand]]) -> Operand:
        """Add the primitive; its last states are to be copied out as ``results`` tell."""
        sizes, builder = self.sizes, self.builder
        target = builder.temporary(
            MemoryDesc.plain((sizes.steps, sizes.batch, sizes.width), DataType.f32)
        )
        state = sizes.state(DataType.f32)
        before = [self._state(index) for index in range(self.kind.state_count)]
        after = [builder.temporary(state) for _ in before]
        desc = self._make(source.desc, target.desc, state)
        memories: dict[int, Source] = {Arg.src: source, Arg.dst: target, **self._packed(desc)}
        slots = ((Arg.src_1, Arg.dst_1), (Arg.src_2, Arg.dst_2))
        for (given, left), first, last in zip(slots, before, after, strict=False):
            memories |= {given: first, left: last}
        builder.execute(desc, memories)
        for index, last in enumerate(after):
            results.append((last, Operand(self._place("output", index), sizes.state(self.element))))
        return target

    def _constant(self, index: int) -> Array:
        name = self.builder.spec.constants[index]
        if name is None:
            raise Unprepared("a weight is not a constant")
        spec = self.builder.spec.inputs[index]
        array = self.builder.weights.array(name).reshape(spec.shape)
        widen = widening(spec.dtype)
        return array if widen is None else widen(array)

    def _place(self, where: str, index: int) -> Place:
        """Where this layer's part of a state lies."""
        sizes = self.sizes
        count = sizes.directions * sizes.batch * sizes.hidden
        return Place(where, 1 + index, self.number * count * self.element.item_bytes)

    def _state(self, index: int) -> Source:
        given = Operand(self._place("input", index), self.sizes.state(self.element))
        return self.builder.converted(given, self.sizes.state(DataType.f32))

    def _make(self, src: MemoryDesc, dst: MemoryDesc, state: MemoryDesc) -> PrimitiveDesc:
        sizes, mode = self.sizes, self.kind.mode
        gates = self.kind.gate_count
        dims = (1, sizes.directions, src.dims[-1], gates, sizes.hidden)
        inner = (1, sizes.directions, sizes.hidden, gates, sizes.hidden)
        bias = (1, sizes.directions, gates + (mode == "gru"), sizes.hidden)
        cell = Cell(
            src, MemoryDesc.any(dims, DataType.f32), MemoryDesc.any(inner, DataType.f32),
            MemoryDesc.plain(bias, DataType.f32), dst, state, state,
        )
        direction = Direction.left_to_right
        if sizes.directions == 2:
            direction = Direction.bidirectional_concat
        try:
            if mode == "lstm":
                return onednn.lstm(cell, direction, src_iter_c=state, dst_iter_c=state)
            if mode == "gru":
                return onednn.lbr_gru(cell, direction)
            activation = Algorithm.tanh if mode == "rnn_tanh" else Algorithm.relu
            return onednn.vanilla_rnn(cell, direction, activation)
        except onednn.OneDNNError as error:
            raise Unprepared(str(error)) from error

    def _packed(self, desc: PrimitiveDesc) -> dict[int, Source]:
        """The weights and the bias as the primitive wants them."""
        wanted = {arg: desc.arg_desc(arg) for arg in (Arg.weights, Arg.weights_1, Arg.bias)}
        made: dict[int, Source] = {}
        for position, (arg, target) in enumerate(wanted.items()):
            if target is None:
                raise Unprepared("the primitive takes no such weights")
            array = self._bias() if arg == Arg.bias else self._gates(position)
            made[arg] = self.builder.literal((*self.key, int(arg)), array, target)
        return made

    def _gates(self, index: int) -> Array:
        """Weights (1, directions, inputs, gates, hidden) from [gates * hidden, inputs]."""
        order = list(_GATE_ORDER[self.kind.mode])
        split = [
            weights[index].reshape(len(order), self.sizes.hidden, -1)[order].transpose(2, 0, 1)
            for weights in self.weights
        ]
        return np.ascontiguousarray(np.stack(split)[None])

    def _bias(self) -> Array:
        """(1, directions, gates, hidden); a GRU keeps its two biases of `new` apart."""
        return np.ascontiguousarray(np.stack([self._biases(w) for w in self.weights])[None])

    def _biases(self, weights: Sequence[Array]) -> Array:
        order = list(_GATE_ORDER[self.kind.mode])
        rows, hidden = len(order), self.sizes.hidden
        is_gru = self.kind.mode == "gru"
        if not self.kind.has_biases:
            return np.zeros((rows + is_gru, hidden), np.float32)
        of_input, of_state = (weights[2 + i].reshape(rows, hidden)[order] for i in (0, 1))
        if not is_gru:
            return np.asarray(of_input + of_state)
        together = of_input[:2] + of_state[:2]
        return np.concatenate([together, of_input[2:], of_state[2:]])


def _as_operand(source: Source) -> Operand:
    if not isinstance(source, Operand):
        raise TypeError("a layer's result became constant")
    return source


def _sizes(spec: LayerSpec) -> _Sizes:
    kind = _kind(spec)
    first, second, features = spec.inputs[0].shape
    steps, batch = (second, first) if kind.is_batch_first else (first, second)
    hidden = spec.inputs[1].shape[-1]
    return _Sizes(steps, batch, features, hidden, kind.direction_count, kind.is_batch_first)


def _kind(spec: LayerSpec) -> Recurrent:
    if not isinstance(spec.kind, Recurrent):
        raise Unprepared(f"{spec.kind.name} is not recurrent")
    return spec.kind
