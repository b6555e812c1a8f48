"""Makes a plan: tactics and layouts by cost, reformats between them, storage for every value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from torch2rt.backends.spec import Layout, TensorSpec, canonical_layout
from torch2rt.backends.tactic import Prepared, Unprepared
from torch2rt.build.action import Action, Cause, Key
from torch2rt.build.measure import Measure, Option
from torch2rt.build.pitched import Pitches, placed_spec
from torch2rt.build.reformats import Reformats
from torch2rt.build.schedule import Schedule, dependencies, worth_streams
from torch2rt.build.select import Costs, cheapest
from torch2rt.build.storage import FinishedStorage, StoragePlan
from torch2rt.build.values import declare_values, is_whole, place_views
from torch2rt.engine.plan import Plan, PlanStep, PlanTensor
from torch2rt.engine.specs import layer_spec, tensor_spec
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor

Prepare = Callable[[Option], Prepared]
# Changes a choice that a planner has made.
Settle: TypeAlias = "Callable[[Planner, list[Option]], list[Option]]"


def make_plan(
    network: Network, symbols: Mapping[str, int], measure: Measure, prepare: Prepare
) -> Plan:
    """The cheapest plan for one concrete shape, one step after the other.

    NoTacticError if a layer cannot be run at all.
    """
    return make_plans(network, symbols, measure, prepare)[0]


def make_plans(
    network: Network, symbols: Mapping[str, int], measure: Measure, prepare: Prepare,
    max_streams: int = 1, settle: Settle | None = None,
) -> list[Plan]:
    """The same, and plans on several streams where that promises to be faster."""
    planner = Planner(network, dict(symbols), measure, prepare)
    planner.collect()
    while True:
        chosen = planner.choose()
        if settle is not None:
            chosen = settle(planner, chosen)
        placement = planner.place(planner.actions(chosen))
        if placement is not None:
            break
    return [planner.finish(placement, found) for found in (None, *placement.schedules(max_streams))]


@dataclass
class _Placement:
    """Actions whose values have found a place: what is left is the order and the offsets."""

    storage: StoragePlan
    actions: list[Action]
    workspaces: list[int]
    # Number of the step that each action is; views are none.
    numbers: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        steps = [index for index, action in enumerate(self.actions) if not action.is_view]
        self.numbers = {index: number for number, index in enumerate(steps)}

    def schedules(self, max_streams: int) -> list[Schedule]:
        """Steps on two streams, on three, and so on, as far as that promises something."""
        if max_streams < 2:
            return []
        accesses = self.storage.accesses(self.numbers).values()
        times_us = [self.actions[index].time_us for index in self.numbers]
        before = dependencies(list(accesses), len(times_us))
        found: dict[int, Schedule] = {}
        for count in range(2, max_streams + 1):
            schedule = worth_streams(before, times_us, count)
            if schedule is not None:
                found.setdefault(schedule.stream_count, schedule)
        return list(found.values())

    def finish(self, schedule: Schedule | None) -> FinishedStorage:
        """Offsets for all values and workspaces."""
        if schedule is None:
            return self.storage.finish(self.workspaces)
        return self.storage.finish_scheduled(self.workspaces, schedule, self.numbers)


@dataclass
class Planner:
    """Plans of a network at one shape: options of its layers, then a choice, then storage."""

    network: Network
    symbols: dict[str, int]
    measure: Measure
    prepare: Prepare
    layers: list[Layer] = field(default_factory=list)
    options: list[list[Option]] = field(default_factory=list)
    all_options: dict[str, list[Option]] = field(default_factory=dict)
    # Layers whose views leave alone what lies inside another tensor.
    unjoined: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.reformats = Reformats(self.measure, self.symbols)
        self.pitches = Pitches(self.measure, self.all_options)

    def collect(self) -> None:
        """Options of every layer that computes something: the best for each layout choice."""
        specs = {layer: layer_spec(layer, self.symbols) for layer in self.network.layers}
        self.layers = [
            layer for layer, spec in specs.items()
            if any(output.element_count for output in spec.outputs)
        ]
        self.measure.tune([specs[layer] for layer in self.layers])
        for layer in self.layers:
            found = self.measure.options(specs[layer])
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
            self.reformats.time_us(tensor, Layout.PLAIN, option.choice.inputs[position])
            for option in self.options[consumer]
        ])

    def _to_plain(self, tensor: Tensor, producer: int) -> Costs:
        position = self.layers[producer].outputs.index(tensor)
        return np.array([
            self.reformats.time_us(tensor, option.choice.outputs[position], Layout.PLAIN)
            for option in self.options[producer]
        ])

    def _between(self, tensor: Tensor, producer: int, consumer: int, position: int) -> Costs:
        output = self.layers[producer].outputs.index(tensor)
        return np.array([
            [
                self.reformats.time_us(tensor, a.choice.outputs[output], b.choice.inputs[position])
                for b in self.options[consumer]
            ]
            for a in self.options[producer]
        ])

    def plan_of(self, chosen: list[Option]) -> Plan | None:
        """The plan of a choice, one step after the other; None if it cannot be had."""
        placement = self.place(self.actions(chosen))
        return None if placement is None else self.finish(placement, None)

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
            actions.append(
                Action(layer.name, option, inputs, outputs, option.spec, option.time_us)
            )
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
                actions.append(self.reformats.action(Key(tensor, source), Key(tensor, target)))
            have[tensor].append(target)
        return Key(tensor, target)

    def _copy(self, name: str, source: Key, actions: list[Action]) -> None:
        spec = tensor_spec(source.tensor, self.symbols)
        if spec.element_count:
            target = Key(source.tensor, Layout.PLAIN, name)
            actions.append(self.reformats.action(source, target))

    def _canonical(self, tensor: Tensor, layout: Layout) -> Layout:
        return canonical_layout(tensor_spec(tensor, self.symbols).with_layout(layout))

    # ---- storage --------------------------------------------------------------------------

    def place(self, actions: list[Action]) -> _Placement | None:
        """Storage and code for all; None after striking out what cannot be had."""
        storage = declare_values(self.network, self.symbols, actions)
        causes = self._place_views(storage, actions)
        if causes is None:
            return None
        culprits = self.pitches.settle(storage, actions, causes)
        for cause in culprits:
            if cause.joins:
                self.unjoined.add(cause.view.layer)
            else:
                self._strike_out(cause.view)
        if culprits:
            return None
        prepared = self._prepare_all(actions)
        if prepared is None:
            return None
        for step, (action, state) in enumerate(zip(actions, prepared, strict=True)):
            if state is not None:
                self._overwrite(storage, action, state, step)
        workspaces = [state.workspace_bytes if state is not None else 0 for state in prepared]
        return _Placement(storage, actions, workspaces)

    def _place_views(
        self, storage: StoragePlan, actions: list[Action]
    ) -> dict[Key, Cause] | None:
        """Why each value lies inside another; None after striking some views out.

        The views that spare the longest copies come first, after those that only give a value
        another shape.
        """
        causes: dict[Key, Cause] = {}
        views = [action for action in actions if action.is_view]
        views.sort(key=lambda action: (not is_whole(action), -self.pitches.copy_us(action)))
        failed = [
            action for action in views
            if not place_views(storage, action, causes, self.pitches.copy_us,
                               may_join=action.layer not in self.unjoined)
        ]
        for action in failed:
            self._strike_out(action)
        return None if failed else causes

    def _prepare_all(self, actions: list[Action]) -> list[Prepared | None] | None:
        """Code for every action that is no view; None after striking out one that has none.

        Only an option that was never measured can fail here.
        """
        final = [replace(action.option, spec=action.spec) for action in actions]
        self.measure.compile(final)
        prepared: list[Prepared | None] = []
        for action, option in zip(actions, final, strict=True):
            try:
                prepared.append(None if action.is_view else self.prepare(option))
            except Unprepared as error:
                self.measure.failed(option, str(error))
                if action.is_pitched:
                    self.pitches.refuse(action)
                elif action.layer:
                    self._strike_out(action)
                self.reformats.forget()
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

    def finish(self, placement: _Placement, schedule: Schedule | None) -> Plan:
        """The plan of a placement, on one stream or several."""
        finished = placement.finish(schedule)
        tensors: dict[tuple[Key, TensorSpec], int] = {}
        rows: list[PlanTensor] = []

        def number(key: Key, spec: TensorSpec) -> int:
            if (key, spec) not in tensors:
                is_constant = key.tensor.is_constant and not key.copy  # each tactic packs its own
                if not is_constant and self._canonical(key.tensor, spec.layout) != key.layout:
                    raise AssertionError(f"{key.tensor.name} is {key.layout}, read as {spec}")
                if spec != placed_spec(placement.storage, key, spec.with_layout(spec.layout)):
                    raise AssertionError(f"{key.tensor.name} does not lie as {spec}")
                tensors[key, spec] = len(rows)
                rows.append(PlanTensor(key.tensor.name, spec, finished.storage[key]))
            return tensors[key, spec]

        def numbers(keys: Sequence[Key], specs: Sequence[TensorSpec]) -> tuple[int, ...]:
            return tuple(number(key, spec) for key, spec in zip(keys, specs, strict=True))

        steps = []
        for index, step in placement.numbers.items():
            action = placement.actions[index]
            steps.append(PlanStep(
                action.layer, action.option.tactic.name,
                numbers(action.inputs, action.spec.inputs),
                numbers(action.outputs, action.spec.outputs),
                finished.workspace_offsets[index], round(action.time_us, 3),
                schedule.streams[step] if schedule is not None else 0,
                schedule.waits[step] if schedule is not None else (),
            ))
        return Plan(
            symbols=self.symbols, tensors=tuple(rows), steps=tuple(steps),
            arena_bytes=finished.arena_bytes, live_bytes=finished.live_bytes,
            viewed=tuple(a.layer for a in placement.actions if a.is_view),
            runners_up=self._runners_up(placement.actions),
            untuned=sum(not action.option.is_tuned for action in placement.actions),
            failed={name: tuple(sorted(pairs)) for name, pairs in self.measure.failures.items()},
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
