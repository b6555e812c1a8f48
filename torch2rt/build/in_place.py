"""Rivals that are nearly as fast as the choice, tried in the whole plan.

Layers are timed alone. What a kernel leaves in the caches for the next, how soon the next may
start beside its end and what clock the two leave the GPU shows only in the network: ViT-B/16 on an
H200 is 2 % faster with the second best product in its MLPs. So rivals of the heaviest layers, for
all layers alike at once, race in the plan itself against the plan as it stands. Both times are
kept in the timing cache, under the tactic "plan"; a build that finds them there runs nothing.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch2rt.backends.backend import Backend
from torch2rt.build.blob_cache import BlobCache
from torch2rt.build.measure import Measure, Option
from torch2rt.build.planner import Planner
from torch2rt.engine.context import Executable
from torch2rt.engine.engine import Engine
from torch2rt.engine.plan_timing import race_plans_us
from torch2rt.errors import DeviceError
from torch2rt.network.network import Network

logger = logging.getLogger(__name__)

# In the timing cache.
PLAN = "plan"
# Plans that take less are not worth the time, nor layers that all together take less of it.
_LEAST_US = 500.0
_HEAVY = 0.04
_GROUPS = 5
# Rivals that alone are slower by no more than this; what the plan must gain to be changed.
_CLOSE = 1.06
_RIVALS = 2
_GAIN = 0.993


@dataclass
class InPlace:
    """Races of plans of one network. Their code and weights are dropped with it."""

    network: Network
    backend: Backend
    measure: Measure
    blobs: BlobCache
    _draft: Engine | None = field(default=None, init=False)
    # The plan that won last, ready to run again.
    _holder: tuple[str, Executable | None] = field(default=("", None), init=False)

    def settled(self, planner: Planner, chosen: Sequence[Option]) -> list[Option]:
        """The choice, with those rivals instead that make the plan faster."""
        best = list(chosen)
        for group in heavy_groups(best):
            for rival in rivals(planner.all_options[planner.layers[group[0]].name], best[group[0]]):
                other = exchanged(planner, best, group, rival)
                if other is not None and self._is_faster(planner, other, best):
                    logger.info("%s: %s in place of %s", rival.spec.name, rival.tactic.name,
                                best[group[0]].tactic.name)
                    best = other
        return best

    def _is_faster(self, planner: Planner, other: list[Option], best: list[Option]) -> bool:
        names = digest(other), digest(best)
        keys = [f"{names[0]} beside {names[1]}", f"{names[1]} beside {names[0]}"]
        cache, device = self.measure.cache, self.measure.device
        known = [cache.get(device, PLAN, key) for key in keys]
        times = [time_us for time_us in known if time_us is not None]
        if len(times) < len(keys):
            if time.monotonic() >= self.measure.deadline:
                return False
            times = self._race(planner, other, best)
            for key, time_us in zip(keys, times, strict=True):
                cache.put(device, PLAN, key, time_us)
        return _is_won(times)

    def _race(
        self, planner: Planner, other: list[Option], best: list[Option]
    ) -> list[float]:
        """Times of the plans of two choices; infinite for both where one cannot be run."""
        try:
            challenger, holder = (self._executable(planner, choice) for choice in (other, best))
            if challenger is None or holder is None:
                return [math.inf, math.inf]
            with self.backend.exclusive():
                exact = race_plans_us(challenger, holder)
            times = [round(time_us, 3) for time_us in exact]  # as the cache keeps them
            won = _is_won(times)
            self._holder = (digest(other), challenger) if won else (digest(best), holder)
            return times
        except DeviceError as error:  # such as memory that does not hold weights twice
            logger.info("plans cannot race: %s", error)
            return [math.inf, math.inf]

    def _executable(self, planner: Planner, choice: list[Option]) -> Executable | None:
        """A choice made ready by the draft engine."""
        if self._holder[0] == digest(choice):
            return self._holder[1]
        if self._draft is None:
            self._draft = Engine(self.network, (), self.backend)
            self._draft.weights.blob_source = self.blobs.fetch
        draft = self._draft
        usual, planner.prepare = (
            planner.prepare, lambda option: draft.prepare(option.tactic.name, option.spec)
        )
        try:
            plan = planner.plan_of(choice)
        finally:
            planner.prepare = usual
        if plan is None:
            return None
        layers = {layer.name: layer for layer in self.network.layers}
        return Executable(plan, layers, self.backend, draft.weights, draft.prepare)


def _is_won(times_us: Sequence[float]) -> bool:
    """Whether the challenger, whose time comes first, is surely faster than the holder."""
    return times_us[0] < _GAIN * times_us[1]


def heavy_groups(chosen: Sequence[Option]) -> list[list[int]]:
    """Layers alike and of one tactic, by their numbers: groups worth a race, heaviest first."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index, option in enumerate(chosen):
        if not option.views:
            groups.setdefault((option.tactic.name, option.spec.signature), []).append(index)
    total_us = sum(option.time_us for option in chosen)
    if total_us < _LEAST_US:
        return []

    def time_us(group: list[int]) -> float:
        return len(group) * chosen[group[0]].time_us

    heavy = [group for group in groups.values() if time_us(group) >= _HEAVY * total_us]
    return sorted(heavy, key=time_us, reverse=True)[:_GROUPS]


def rivals(options: Sequence[Option], best: Option) -> list[Option]:
    """Measured options with the layouts of the best that are nearly as fast, the fastest first."""
    close = [
        option for option in options
        if option.tactic is not best.tactic and option.choice == best.choice
        and option.is_tuned and not option.views and option.time_us <= _CLOSE * best.time_us
    ]
    return close[:_RIVALS]


def exchanged(
    planner: Planner, chosen: Sequence[Option], group: Sequence[int], rival: Option
) -> list[Option] | None:
    """The choice with a rival's tactic for a group; None where a layer does not have it."""
    other = list(chosen)
    for index in group:
        found = next((
            option for option in planner.all_options[planner.layers[index].name]
            if option.tactic is rival.tactic and option.choice == rival.choice
        ), None)
        if found is None:
            return None
        other[index] = found
    return other


def digest(chosen: Sequence[Option]) -> str:
    """Equal for equal tactics and layers, in every process."""
    text = "\n".join(f"{option.tactic.name} {option.spec.signature}" for option in chosen)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
