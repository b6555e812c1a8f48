"""The options of every layer and what they cost: from the timing cache, else measured now."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TypeAlias

from torch2rt.backends.backend import Backend
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Tactic, View, Weights
from torch2rt.build.blob_cache import BlobCache
from torch2rt.build.check import Checker
from torch2rt.build.compile_ahead import CompileAhead
from torch2rt.build.estimate import estimate_us, worth_timing
from torch2rt.build.first_run import broken
from torch2rt.build.timing_cache import TimingCache
from torch2rt.build.trial import Trial
from torch2rt.errors import NoTacticError

logger = logging.getLogger(__name__)

VIEW = "view"
# Layers compiled together when there is a time budget, which may end between two such lots.
_LOT = 12

Pair: TypeAlias = tuple[Tactic, LayoutChoice, LayerSpec]


@dataclass(frozen=True, slots=True)
class Option:
    """A tactic with a layout choice, its time, and its views if it only places tensors.

    ``is_tuned`` is False for a time that is an estimate though there are rivals.
    """

    tactic: Tactic
    choice: LayoutChoice
    spec: LayerSpec
    time_us: float
    views: tuple[View, ...] = ()
    is_tuned: bool = True


@dataclass
class Measure:
    """Measures tactics on a backend through a timing cache.

    With ``is_quick`` nothing is run: what the cache does not know is estimated, for plans that are
    made while somebody waits. ``preferred`` names, by layer, the tactic and output layout that a
    tuned plan of the same network chose, ``excluded`` the tactics, each with the layouts of all
    tensors, that failed there. Nothing is measured after ``deadline``, a time of `time.monotonic`.
    ``budget_ms`` is for the candidates of a layer.
    """

    backend: Backend
    cache: TimingCache
    weights: Weights
    is_quick: bool = False
    budget_ms: float = 20.0
    on_progress: Callable[[int], object] | None = None
    preferred: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    excluded: Mapping[str, Collection[tuple[str, str]]] = field(default_factory=dict)
    blobs: BlobCache = field(default_factory=BlobCache)
    compile_ahead: CompileAhead | None = None
    deadline: float = math.inf

    def __post_init__(self) -> None:
        self.device = self.backend.fingerprint()
        checks = self.backend.checks_candidates and find_spec("torch") is not None
        self._checker = Checker(self.backend) if checks and not self.is_quick else None
        self._told: set[str] = set()
        # By layer, the tactics and layouts that failed or were wrong.
        self.failures: dict[str, set[tuple[str, str]]] = {}

    # ---- before the choice -----------------------------------------------------------------

    def tune(self, specs: Sequence[LayerSpec]) -> None:
        """Measure what these layers need: compiled in parallel, the heaviest first.

        What is left when the time is over stays unmeasured; a later build goes on from there.
        """
        self._told.clear()
        if self.is_quick:
            return
        has_budget = math.isfinite(self.deadline)
        if self.compile_ahead is None and not has_budget:
            return  # measured when asked for
        order = list(specs)
        if has_budget:
            order.sort(key=lambda spec: -estimate_us(spec, self.backend))
        lot = _LOT if has_budget else max(len(order), 1)
        for start in range(0, len(order), lot):
            if time.monotonic() >= self.deadline:
                break
            new = _of_each_kind(
                pair for spec in order[start : start + lot] for pair in self._new(spec)
            )
            self._compile(new, self.deadline)
            if time.monotonic() < self.deadline:
                self._isolate(new)
            for spec in order[start : start + lot]:
                self.options(spec)

    def compile(self, options: Sequence[Option]) -> None:
        """Compile what these options need, in parallel: also code that differs in a number."""
        unique = {(o.tactic.name, o.spec.code_signature): _pair(o) for o in options if not o.views}
        self._compile(list(unique.values()))

    def compile_and_try(self, options: Sequence[Option]) -> None:
        """Compile options that are about to be timed; those that nobody ran yet run apart first."""
        pairs = _of_each_kind(_pair(option) for option in options if not option.views)
        self._compile(pairs)
        if not self.is_quick and time.monotonic() < self.deadline:
            self._isolate([pair for pair in pairs if self._known_us(pair) is None])

    def _compile(self, pairs: Sequence[Pair], deadline: float = math.inf) -> None:
        if self.compile_ahead is not None:
            self.compile_ahead.run(((tactic, spec) for tactic, _, spec in pairs), deadline)

    def _isolate(self, pairs: Sequence[Pair]) -> None:
        """Strike out the suspects among new candidates that do not survive their first run."""
        if self.compile_ahead is None:
            return
        candidates = [(tactic, spec) for tactic, _, spec in pairs]
        for index in broken(candidates, self.compile_ahead):
            tactic, spec = candidates[index]
            self.cache.put(self.device, tactic.name, spec.signature, math.inf)

    def _new(self, spec: LayerSpec) -> list[Pair]:
        """The candidates of a layer that the timing cache does not know."""
        tactics, _ = self.backend.candidates(spec)
        pairs = self._pairs(tactics, spec)
        if _is_without_rival(pairs):
            return []
        return [pair for pair in pairs if self._known_us(pair) is None]

    # ---- options ---------------------------------------------------------------------------

    def options(self, spec: LayerSpec) -> list[Option]:
        """Every way to run a layer that works, cheapest first.

        NoTacticError when there is none.
        """
        reasons: list[str] = []
        below = math.inf
        while True:
            tactics, refused = self.backend.candidates(spec, below)
            if not tactics:
                raise NoTacticError(
                    backend=self.backend.name, layer=spec.name, kind=spec.kind.name,
                    where=spec.where, reasons="\n".join(reasons) or "  none",
                )
            options, failures = self._options_of(tactics, spec)
            reasons += [f"  {reason}" for reason in (*refused, *failures)]
            if options:
                break
            below = tactics[0].level  # each took the layer, and none could be prepared for it
        if self.on_progress is not None and spec.name not in self._told:
            self._told.add(spec.name)
            self.on_progress(1)
        return sorted(options, key=lambda option: (option.time_us, option.tactic.name))

    def time_us(self, option: Option) -> float:
        """The time of one option with another spec than it was measured with."""
        pair = _pair(option)
        known_us = self._known_us(pair)
        if known_us is not None:
            return known_us
        if self.is_quick or time.monotonic() >= self.deadline:
            return option.time_us
        (time_us, _), = self._measure([pair])
        return time_us

    def failed(self, option: Option, reason: str) -> None:
        """Remember that an option cannot be prepared after all."""
        logger.debug("%s for %s: %s", option.tactic.name, option.spec.name, reason)
        self.cache.put(self.device, option.tactic.name, option.spec.signature, math.inf)

    def close(self) -> None:
        """Give back what measuring holds of the device."""
        if self._checker is not None:
            self._checker.close()

    def _options_of(
        self, tactics: Sequence[Tactic], spec: LayerSpec
    ) -> tuple[list[Option], list[str]]:
        """What works of these tactics, and why the rest does not."""
        pairs = self._pairs(tactics, spec)
        times, failures = self._times(pairs)
        options = []
        for pair, (time_us, is_tuned) in zip(pairs, times, strict=True):
            if math.isfinite(time_us):
                views = self._views(pair)
                options.append(
                    Option(*pair, 0.0 if views else time_us, views, is_tuned or bool(views))
                )
            else:
                self.failures.setdefault(spec.name, set()).add(_full_name(pair))
        return options, failures

    def _pairs(self, tactics: Sequence[Tactic], spec: LayerSpec) -> list[Pair]:
        """Tactics with each of their layout choices, without the hopeless and the excluded."""
        pairs = [
            (tactic, choice, spec.with_layouts(choice))
            for tactic in tactics
            for choice in tactic.layouts(spec)
        ]
        excluded = self.excluded.get(spec.name, ())
        return worth_timing([pair for pair in pairs if _full_name(pair) not in excluded])

    def _views(self, pair: Pair) -> tuple[View, ...]:
        tactic, _, spec = pair
        return tactic.prepare(spec, self.weights).views if _is_view(tactic) else ()

    def _known_us(self, pair: Pair) -> float | None:
        """The time of a candidate if it need not be measured."""
        tactic, _, spec = pair
        if _is_view(tactic):
            return 0.0
        return self.cache.get(self.device, tactic.name, spec.signature)

    def _times(self, pairs: Sequence[Pair]) -> tuple[list[tuple[float, bool]], list[str]]:
        """Time of each candidate and whether it was measured; why some failed."""
        known = [self._known_us(pair) for pair in pairs]
        times = [(math.inf, True) if us is None else (us, True) for us in known]
        missing = [index for index, us in enumerate(known) if us is None]
        if not missing:
            return times, []
        if _is_without_rival(pairs):
            # Nothing to choose, and a fallback may refuse random operands.
            return [(estimate_us(pairs[0][2], self.backend), True)], []
        if self.is_quick or time.monotonic() >= self.deadline:
            for rank, index in enumerate(missing):
                times[index] = (self._guess_us(pairs[index], rank), len(pairs) == 1)
            return times, []
        results = self._measure([pairs[index] for index in missing])
        failures = []
        for index, (time_us, failure) in zip(missing, results, strict=True):
            times[index] = (time_us, True)
            if failure:
                failures.append(f"{pairs[index][0].name}: {failure}")
        return times, failures

    def _measure(self, pairs: Sequence[Pair]) -> list[tuple[float, str]]:
        """Time candidates of one layer: times into the cache, and why some failed."""
        trial = Trial(self.backend, self.weights, self.blobs, self._checker, self.budget_ms)
        results = trial.run([(tactic, spec) for tactic, _, spec in pairs])
        for (tactic, _, spec), (time_us, _) in zip(pairs, results, strict=True):
            self.cache.put(self.device, tactic.name, spec.signature, time_us)
        return results

    def _guess_us(self, pair: Pair, rank: int) -> float:
        """An estimate that puts what a tuned plan chose before all others."""
        tactic, _, spec = pair
        usual_us = estimate_us(spec, self.backend)
        if self.preferred.get(spec.name) == _name(pair):
            return usual_us
        own_us = tactic.estimate_us(spec)
        return (1.2 + 0.05 * rank) * usual_us if own_us is None else max(own_us, 1.1 * usual_us)


def _of_each_kind(pairs: Iterable[Pair]) -> list[Pair]:
    """The first of those that are alike: the one that will be timed."""
    found: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        found.setdefault((pair[0].name, pair[2].signature), pair)
    return list(found.values())


def _pair(option: Option) -> Pair:
    return option.tactic, option.choice, option.spec


def _name(pair: Pair) -> tuple[str, str]:
    """Tactic and layout of the first output, as plans of other sizes know them again."""
    tactic, _, spec = pair
    return tactic.name, spec.outputs[0].layout.value


def _full_name(pair: Pair) -> tuple[str, str]:
    """Tactic and all its layouts: what fails on a row-major input may be right on a blocked one."""
    tactic, choice, _ = pair
    inputs, outputs = (
        ",".join(layout.value for layout in layouts) for layouts in (choice.inputs, choice.outputs)
    )
    return tactic.name, f"{inputs}>{outputs}"


def _is_view(tactic: Tactic) -> bool:
    return tactic.name.endswith(f".{VIEW}")


def _is_without_rival(pairs: Sequence[Pair]) -> bool:
    """Whether the last resort is the only way."""
    return len(pairs) == 1 and pairs[0][0].level == 0
