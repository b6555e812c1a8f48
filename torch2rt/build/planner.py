"""Makes a plan: tactics and layouts by cost, reformats between them, storage for every value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from torch2rt.backends.spec import (
    LayerSpec,
    Layout,
    LayoutChoice,
    TensorSpec,
    canonical_layout,
)
from torch2rt.backends.tactic import Prepared, Unprepared
from torch2rt.build.measure import Measure, Option
from torch2rt.build.select import Costs, cheapest
from torch2rt.build.storage import StoragePlan
from torch2rt.engine.plan import REFORMAT, Plan, PlanStep, PlanTensor
from torch2rt.engine.specs import layer_spec, tensor_spec
from torch2rt.errors import NoTacticError
from torch2rt.layers.reformat import Reformat
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor

Prepare = Callable[[Option], Prepared]

# The cost of a reformat that no tactic does: more than any network takes.
IMPOSSIBLE_US = 1e12


class Key(NamedTuple):
    """A value of the plan: a tensor in a layout; ``copy`` names the output it is a copy for."""

    tensor: Tensor
    layout: Layout
    copy: str = ""


@dataclass
class Action:
    """A layer or a reformat with its option, and the values it reads and writes."""

    layer: str
    option: Option
    inputs: list[Key]
    outputs: list[Key]


def make_plan(
    network: Network, symbols: Mapping[str, int], measure: Measure, prepare: Prepare
) -> Plan:
    """The cheapest plan for one concrete shape.

    NoTacticError if a layer cannot be run at all.
    """
    planner = _Planner(network, dict(symbols), measure, prepare)
    planner.collect()
    while True:
        actions = planner.actions(planner.choose())
        plan = planner.place(actions)
        if plan is not None:
            return plan


@dataclass
class _Planner:
    network: Network
    symbols: dict[str, int]
    measure: Measure
    prepare: Prepare
    layers: list[Layer] = field(default_factory=list)
    options: list[list[Option]] = field(default_factory=list)
    all_options: dict[str, list[Option]] = field(default_factory=dict)
    reformats: dict[tuple[TensorSpec, Layout], Option | None] = field(default_factory=dict)

    def collect(self) -> None:
        """Options of every layer that computes something: the best for each layout choice."""
        for layer in self.network.layers:
            spec = layer_spec(layer, self.symbols)
            if all(output.element_count == 0 for output in spec.outputs):
                continue
            found = self.measure.options(spec)
            self.layers.append(layer)
            self.all_options[layer.name] = found
            self.options.append(_best_per_choice(found))

    # ---- choice ---------------------------------------------------------------------------

    def choose(self) -> list[Option]:
        """One option per layer, the cheapest together with the reformats between them."""
        unary = [np.array([o.time_us for o in options]) for options in self.options]
        index = {layer: i for i, layer in enumerate(self.layers)}
        pairwise: dict[tuple[int, int], Costs] = {}
        for consumer, layer in enumerate(self.layers):
            for position, tensor in enumerate(layer.inputs):
                if tensor.is_constant:
                    continue
                producer = index.get(tensor.producer) if tensor.producer is not None else None
                if producer is None:
                    unary[consumer] = unary[consumer] + self._from_plain(tensor, consumer, position)
                    continue
                table = self._between(tensor, producer, consumer, position)
                pair = (producer, consumer)
                pairwise[pair] = pairwise[pair] + table if pair in pairwise else table
        for tensor in self.network.outputs.values():
            if tensor.producer in index:
                producer = index[tensor.producer]
                unary[producer] = unary[producer] + self._to_plain(tensor, producer)
        chosen = cheapest(unary, pairwise)
        return [options[i] for options, i in zip(self.options, chosen, strict=True)]

    def _from_plain(self, tensor: Tensor, consumer: int, position: int) -> Costs:
        return np.array([
            self._reformat_us(tensor, Layout.PLAIN, option.choice.inputs[position])
            for option in self.options[consumer]
        ])

    def _to_plain(self, tensor: Tensor, producer: int) -> Costs:
        position = self.layers[producer].outputs.index(tensor)
        return np.array([
            self._reformat_us(tensor, option.choice.outputs[position], Layout.PLAIN)
            for option in self.options[producer]
        ])

    def _between(self, tensor: Tensor, producer: int, consumer: int, position: int) -> Costs:
        output = self.layers[producer].outputs.index(tensor)
        return np.array([
            [
                self._reformat_us(tensor, a.choice.outputs[output], b.choice.inputs[position])
                for b in self.options[consumer]
            ]
            for a in self.options[producer]
        ])

    def _reformat_us(self, tensor: Tensor, source: Layout, target: Layout) -> float:
        spec = tensor_spec(tensor, self.symbols)
        if canonical_layout(spec.with_layout(source)) == canonical_layout(spec.with_layout(target)):
            return 0.0
        option = self._reformat(spec.with_layout(source), target)
        return option.time_us if option is not None else IMPOSSIBLE_US

    def _reformat(self, source: TensorSpec, target: Layout) -> Option | None:
        """The fastest way from one layout to another, None where this backend has none."""
        if (source, target) not in self.reformats:
            spec = LayerSpec(
                REFORMAT, REFORMAT, Reformat(source.dtype), None,
                (source,), (source.with_layout(target),), (None,),
            )
            wanted = LayoutChoice((source.layout,), (target,))
            ways = [option for option in self.measure.options(spec) if option.choice == wanted]
            self.reformats[source, target] = ways[0] if ways else None
        return self.reformats[source, target]

    def _reformat_action(self, source: Key, target: Key) -> Action:
        """A reformat from one value to another. NoTacticError where this backend has none."""
        spec = tensor_spec(source.tensor, self.symbols).with_layout(source.layout)
        option = self._reformat(spec, target.layout)
        if option is None:
            raise NoTacticError(
                backend=self.measure.backend.name, layer=REFORMAT, kind=REFORMAT,
                where=source.tensor.name,
                reasons=f"  nothing goes from {spec} to {target.layout.value}",
            )
        return Action("", option, [source], [target])

    # ---- actions --------------------------------------------------------------------------

    def actions(self, chosen: list[Option]) -> list[Action]:
        """Layers in order, with a reformat before the first step that needs one."""
        actions: list[Action] = []
        have: dict[Tensor, list[Layout]] = {
            tensor: [Layout.PLAIN] for tensor in self.network.tensors
        }
        for layer, option in zip(self.layers, chosen, strict=True):
            inputs = [
                self._available(tensor, layout, have, actions)
                for tensor, layout in zip(layer.inputs, option.choice.inputs, strict=True)
            ]
            outputs = []
            for tensor, layout in zip(layer.outputs, option.choice.outputs, strict=True):
                canonical = self._canonical(tensor, layout)
                have[tensor] = [canonical]
                outputs.append(Key(tensor, canonical))
            actions.append(Action(layer.name, option, inputs, outputs))
        bound: set[Tensor] = set()
        for name, tensor in self.network.outputs.items():
            source = self._available(tensor, Layout.PLAIN, have, actions)
            if tensor in bound or tensor.is_constant or tensor in self.network.inputs.values():
                self._copy(name, source, actions)
            bound.add(tensor)
        return actions

    def _available(
        self, tensor: Tensor, layout: Layout, have: dict[Tensor, list[Layout]],
        actions: list[Action],
    ) -> Key:
        target = self._canonical(tensor, layout)
        if tensor.is_constant:
            return Key(tensor, Layout.PLAIN)
        if target not in have[tensor]:
            source = have[tensor][0]
            spec = tensor_spec(tensor, self.symbols).with_layout(source)
            if spec.element_count:
                actions.append(self._reformat_action(Key(tensor, source), Key(tensor, target)))
            have[tensor].append(target)
        return Key(tensor, target)

    def _copy(self, name: str, source: Key, actions: list[Action]) -> None:
        spec = tensor_spec(source.tensor, self.symbols)
        if spec.element_count:
            target = Key(source.tensor, Layout.PLAIN, name)
            actions.append(self._reformat_action(source, target))

    def _canonical(self, tensor: Tensor, layout: Layout) -> Layout:
        return canonical_layout(tensor_spec(tensor, self.symbols).with_layout(layout))

    # ---- storage --------------------------------------------------------------------------

    def place(self, actions: list[Action]) -> Plan | None:
        """The finished plan; None after striking out a view that cannot be placed."""
        storage = self._declare(actions)
        for step, action in enumerate(actions):
            for key in action.inputs:
                storage.read(key, step)
            if not action.option.views:
                for key in action.outputs:
                    storage.written(key, step)
        for action in actions:
            if action.option.views and not self._place_views(storage, action):
                self._strike_out(action)
                return None
        prepared = self._prepare_all(actions)
        if prepared is None:
            return None
        for step, (action, state) in enumerate(zip(actions, prepared, strict=True)):
            if state is not None:
                self._overwrite(storage, action, state, step)
        workspaces = [state.workspace_bytes if state is not None else 0 for state in prepared]
        return self._finish(storage, actions, workspaces)

    def _declare(self, actions: list[Action]) -> StoragePlan:
        storage = StoragePlan()
        inputs = {tensor: name for name, tensor in self.network.inputs.items()}
        outputs: dict[Tensor, str] = {}
        for name, tensor in self.network.outputs.items():
            outputs.setdefault(tensor, name)
        keys = [key for action in actions for key in (*action.inputs, *action.outputs)]
        for key in dict.fromkeys(keys):
            size = tensor_spec(key.tensor, self.symbols).with_layout(key.layout).size_bytes
            is_plain = key.layout is Layout.PLAIN
            if key.tensor.is_constant and not key.copy:
                storage.declare(key, size, "constant", key.tensor.name)
            elif key.copy:
                storage.declare(key, size, "output", key.copy)
            elif key.tensor in inputs and is_plain:
                storage.declare(key, size, "input", inputs[key.tensor])
            elif key.tensor in outputs and is_plain:
                storage.declare(key, size, "output", outputs[key.tensor])
            else:
                storage.declare(key, size)
        return storage

    @staticmethod
    def _place_views(storage: StoragePlan, action: Action) -> bool:
        ends = {"input": action.inputs, "output": action.outputs}
        return all(
            storage.place_inside(
                ends[view.inner[0]][view.inner[1]], ends[view.outer[0]][view.outer[1]],
                view.offset_bytes,
            )
            is None
            for view in action.option.views
        )

    def _prepare_all(self, actions: list[Action]) -> list[Prepared | None] | None:
        """Code for every action that is no view; None after striking out one that has none.

        Only an option that was never measured can fail here.
        """
        prepared: list[Prepared | None] = []
        for action in actions:
            try:
                prepared.append(None if action.option.views else self.prepare(action.option))
            except Unprepared as error:
                self.measure.failed(action.option, str(error))
                if action.layer:
                    self._strike_out(action)
                self.reformats.clear()
                return None
        return prepared

    def _strike_out(self, action: Action) -> None:
        """Drop an option, for this layer and those like it.

        A view goes whose tensors cannot share memory, and a tactic that cannot be prepared.
        NoTacticError if nothing is left.
        """
        struck = action.option
        for index, layer in enumerate(self.layers):
            rest = [
                option
                for option in self.all_options[layer.name]
                if option is not struck
                and (struck.views or not _is_same(option, struck))
            ]
            if len(rest) == len(self.all_options[layer.name]):
                continue
            # What cannot be prepared is known by now: these are tactics of a lower level.
            rest = rest or self.measure.options(layer_spec(layer, self.symbols))
            self.all_options[layer.name] = rest
            self.options[index] = _best_per_choice(rest)

    @staticmethod
    def _overwrite(storage: StoragePlan, action: Action, state: Prepared, step: int) -> None:
        for position in state.may_overwrite:
            if storage.overwrite(action.outputs[0], action.inputs[position], step):
                return

    def _finish(
        self, storage: StoragePlan, actions: list[Action], workspaces: list[int]
    ) -> Plan:
        finished = storage.finish(workspaces)
        tensors: dict[tuple[Key, Layout], int] = {}
        rows: list[PlanTensor] = []

        def number(key: Key, layout: Layout) -> int:
            if (key, layout) not in tensors:
                if self._canonical(key.tensor, layout) != key.layout:
                    raise AssertionError(f"{key.tensor.name} is {key.layout}, read as {layout}")
                tensors[key, layout] = len(rows)
                spec = tensor_spec(key.tensor, self.symbols).with_layout(layout)
                rows.append(PlanTensor(key.tensor.name, spec, finished.storage[key]))
            return tensors[key, layout]

        steps = []
        for step, action in enumerate(actions):
            if action.option.views:
                continue
            choice = action.option.choice
            inputs = zip(action.inputs, choice.inputs, strict=True)
            outputs = zip(action.outputs, choice.outputs, strict=True)
            steps.append(PlanStep(
                action.layer, action.option.tactic.name,
                tuple(number(key, layout) for key, layout in inputs),
                tuple(number(key, layout) for key, layout in outputs),
                finished.workspace_offsets[step], round(action.option.time_us, 3),
            ))
        return Plan(
            symbols=self.symbols, tensors=tuple(rows), steps=tuple(steps),
            arena_bytes=finished.arena_bytes, live_bytes=finished.live_bytes,
            viewed=tuple(a.layer for a in actions if a.option.views),
            runners_up=self._runners_up(actions),
        )

    def _runners_up(self, actions: list[Action]) -> dict[str, tuple[tuple[str, float], ...]]:
        """The two next-best ways of each layer, for the report."""
        result = {}
        for action in actions:
            others = [
                (f"{option.tactic.name} ({option.choice.outputs[0].value})", option.time_us)
                for option in self.all_options.get(action.layer, ())
                if option is not action.option
            ]
            if others:
                result[action.layer] = tuple(others[:2])
        return result


def _is_same(left: Option, right: Option) -> bool:
    return left.tactic is right.tactic and left.spec.signature == right.spec.signature


def _best_per_choice(options: list[Option]) -> list[Option]:
    best: dict[object, Option] = {}
    for option in options:
        best.setdefault((option.choice, bool(option.views)), option)
    return list(best.values())
