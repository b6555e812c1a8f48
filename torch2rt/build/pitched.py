"""Operands in runs: every tactic that meets a tensor inside a wider one must take it so.

A concat written in place and a slice read in place spare a copy, but their neighbours read and
write memory with gaps. Where a neighbour's tactic cannot, another that can takes its place if it
loses less time than the copy takes; else the view is given up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.build.action import Action, Cause, Key
from torch2rt.build.measure import Measure, Option
from torch2rt.build.storage import StoragePlan

# Rivals of a tactic that cannot: so many are tried.
_MOST_WAYS = 3


@dataclass
class Pitches:
    """Shows each action of a plan the runs of its operands.

    ``options`` are those of each layer. ``refused`` are tactics with specs that failed.
    """

    measure: Measure
    options: Mapping[str, list[Option]]
    refused: set[tuple[str, str]] = field(default_factory=set)

    def settle(
        self, storage: StoragePlan, actions: Sequence[Action], causes: Mapping[Key, Cause]
    ) -> list[Cause]:
        """Give every action the specs of its operands; the views that are not worth it.

        ``causes`` tells why a value lies inside another.
        """
        culprits: list[Cause] = []
        affected: list[tuple[Action, Cause, list[Option]]] = []
        for action in actions:
            cause = _cause(storage, action, causes)
            if cause is None:
                continue
            affected.append((action, cause, self._ways(storage, action)))
            if not affected[-1][-1] and cause not in culprits:
                culprits.append(cause)
        self.measure.compile_and_try([
            way for _, cause, ways in affected if cause not in culprits for way in ways
        ])
        lost_us: dict[Cause, float] = {}
        for action, cause, ways in affected:
            if cause in culprits:
                continue
            time_us, best = min(
                ((self.measure.time_us(way), way) for way in ways), key=lambda pair: pair[0]
            )
            lost = lost_us.get(cause, 0.0) + max(time_us - action.option.time_us, 0.0)
            if not math.isfinite(time_us) or lost > cause.limit_us:
                culprits.append(cause)
                continue
            lost_us[cause] = lost
            dense = next(option for option in self._rivals(action) if _is_way(best, option))
            action.use(dense, best.spec, time_us)
        return culprits

    def copy_us(self, view: Action) -> float:
        """What the copy takes that a view spares."""
        copies = [option for option in self.options.get(view.layer, ()) if not option.views]
        alike = [option for option in copies if option.choice == view.option.choice]
        return min((option.time_us for option in alike or copies), default=math.inf)

    def refuse(self, action: Action) -> None:
        """Remember that an action's tactic fails with its operands in runs."""
        self.refused.add((action.option.tactic.name, action.spec.signature))

    def _ways(self, storage: StoragePlan, action: Action) -> list[Option]:
        """The fastest options with the same layouts that take the operands as they lie.

        The chosen one alone where it does: the rest were slower without runs.
        """
        ways = []
        for option in (action.option, *self._rivals(action)):
            spec = _spec(storage, action, option.spec)
            if spec is None or (option.tactic.name, spec.signature) in self.refused:
                continue
            if option.tactic.takes_pitch(spec):
                ways.append(replace(option, spec=spec))
                if option is action.option or len(ways) == _MOST_WAYS:
                    break
        return ways

    def _rivals(self, action: Action) -> list[Option]:
        """The options with the same layouts, the action's own included."""
        rivals = [
            option for option in self.options.get(action.layer, ())
            if option.choice == action.option.choice and not option.views
        ]
        is_there = any(option is action.option for option in rivals)
        return rivals if is_there else [action.option, *rivals]


def _cause(
    storage: StoragePlan, action: Action, causes: Mapping[Key, Cause]
) -> Cause | None:
    """Why an operand of an action lies in runs; None if all are dense."""
    for key in () if action.is_view else (*action.inputs, *action.outputs):
        inner: Key = key
        while (parent := storage.values[inner].parent) is not None:
            if not storage.place(key)[1].is_dense and not parent[1].is_dense:
                return causes[inner]
            inner = parent[0]  # type: ignore[assignment]
    return None


def _is_way(way: Option, option: Option) -> bool:
    return way.tactic is option.tactic and way.choice == option.choice


def _spec(storage: StoragePlan, action: Action, spec: LayerSpec) -> LayerSpec | None:
    """A spec with the operands as they lie; None if they do not lie in runs of whole axes."""
    try:
        return replace(
            spec,
            inputs=_placed(storage, action.inputs, spec.inputs),
            outputs=_placed(storage, action.outputs, spec.outputs),
        )
    except ValueError:
        return None


def _placed(
    storage: StoragePlan, keys: Sequence[Key], tensors: Sequence[TensorSpec]
) -> tuple[TensorSpec, ...]:
    return tuple(
        placed_spec(storage, key, tensor) for key, tensor in zip(keys, tensors, strict=True)
    )


def placed_spec(storage: StoragePlan, key: Key, tensor: TensorSpec) -> TensorSpec:
    """An operand as it lies. ValueError if it does not lie in runs of whole axes."""
    _, piece = storage.place(key)
    if piece.is_dense:
        return tensor
    size = tensor.dtype.itemsize_bytes
    if tensor.layout.block > 1:
        raise ValueError(f"{tensor} is blocked")
    return tensor.with_pitch(piece.run_bytes // size, piece.pitch_bytes // size)
