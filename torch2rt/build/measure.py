"""The options of every layer and what they cost: from the timing cache, else measured now."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torch2rt.backends.backend import Backend
from torch2rt.backends.buffer import Buffer
from torch2rt.backends.spec import LayerSpec, LayoutChoice, TensorSpec
from torch2rt.backends.tactic import Call, Tactic, Unprepared, View, Weights
from torch2rt.build.timing_cache import TimingCache
from torch2rt.errors import NoTacticError
from torch2rt.network.dtype import Array

logger = logging.getLogger(__name__)

VIEW = "view"
# Constants of a layer from this size on come from memory at every call of a network.
_LARGE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Option:
    """A tactic with a layout choice, its time, and its views if it only places tensors."""

    tactic: Tactic
    choice: LayoutChoice
    spec: LayerSpec
    time_us: float
    views: tuple[View, ...] = ()


class Measure:
    """Measures tactics on a backend through a timing cache.

    With ``is_quick`` nothing is run: what the cache does not know is estimated, for plans that are
    made while somebody waits. ``preferred`` names, by layer, the tactic and output layout that a
    tuned plan of the same network chose.
    """

    def __init__(
        self, backend: Backend, cache: TimingCache, weights: Weights, *,
        is_quick: bool = False, budget_ms: float = 20.0,
        on_progress: Callable[[int], object] | None = None,
        preferred: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        self.backend = backend
        self.cache = cache
        self.weights = weights
        self.is_quick = is_quick
        self.budget_ms = budget_ms
        self.device = backend.fingerprint()
        self.on_progress = on_progress
        self.preferred = preferred or {}

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
        if self.on_progress is not None:
            self.on_progress(1)
        return sorted(options, key=lambda option: (option.time_us, option.tactic.name))

    def _options_of(
        self, tactics: Sequence[Tactic], spec: LayerSpec
    ) -> tuple[list[Option], list[str]]:
        """What works of these tactics, and why the rest does not."""
        pairs = [
            (tactic, choice, spec.with_layouts(choice))
            for tactic in tactics
            for choice in tactic.layouts(spec)
        ]
        times, failures = self._times(pairs)
        options = []
        for (tactic, choice, chosen), time_us in zip(pairs, times, strict=True):
            if math.isfinite(time_us):
                views = self._views(tactic, chosen)
                options.append(Option(tactic, choice, chosen, 0.0 if views else time_us, views))
        return options, failures

    def failed(self, option: Option, reason: str) -> None:
        """Remember that an option cannot be prepared after all."""
        logger.debug("%s for %s: %s", option.tactic.name, option.spec.name, reason)
        self.cache.put(self.device, option.tactic.name, option.spec.signature, math.inf)

    def _views(self, tactic: Tactic, spec: LayerSpec) -> tuple[View, ...]:
        if not tactic.name.endswith(f".{VIEW}"):
            return ()
        return tactic.prepare(spec, self.weights).views

    def _times(
        self, pairs: Sequence[tuple[Tactic, LayoutChoice, LayerSpec]]
    ) -> tuple[list[float], list[str]]:
        times: list[float | None] = []
        for tactic, _, spec in pairs:
            if tactic.name.endswith(f".{VIEW}"):
                times.append(0.0)
            else:
                times.append(self.cache.get(self.device, tactic.name, spec.signature))
        missing = [i for i, time in enumerate(times) if time is None]
        failures: list[str] = []
        if len(pairs) == 1 and missing and pairs[0][0].level == 0:
            # A fallback without rival: nothing to choose, and it may refuse random operands.
            return [estimate_us(pairs[0][2])], failures
        if missing and self.is_quick:
            for rank, index in enumerate(missing):
                tactic, _, spec = pairs[index]
                is_preferred = self.preferred.get(spec.name) == (
                    tactic.name, spec.outputs[0].layout.value
                )
                penalty = 1.0 if is_preferred else 1.2 + 0.05 * rank
                times[index] = estimate_us(spec) * penalty
        elif missing:
            chosen = [(pairs[i][0], pairs[i][2]) for i in missing]
            for index, (time_us, failure) in zip(missing, self._run(chosen), strict=True):
                times[index] = time_us
                self.cache.put(self.device, pairs[index][0].name, pairs[index][2].signature,
                               time_us)
                if failure:
                    failures.append(f"{pairs[index][0].name}: {failure}")
        return [math.inf if time is None else time for time in times], failures

    def _run(self, candidates: Sequence[tuple[Tactic, LayerSpec]]) -> list[tuple[float, str]]:
        """Median time of each candidate, or infinity and why it failed."""
        results: list[tuple[float, str]] = [(math.inf, "")] * len(candidates)
        calls: dict[int, Sequence[Call]] = {}
        memory: dict[int, list[Any]] = {}
        with self.backend.building():
            stream = self.backend.new_stream()
            for index, (tactic, spec) in enumerate(candidates):
                memory[index] = []
                try:
                    calls[index] = self._bind(tactic, spec, memory[index], stream)
                except Unprepared as error:
                    results[index] = (math.inf, str(error))
                    logger.debug("%s for %s: %s", tactic.name, spec.name, error)
            warm = [memory[index] for index in calls] if _has_large_weights(candidates) else None
            timed = self.backend.time_calls_us(list(calls.values()), self.budget_ms, warm)
        for index, time_us in zip(calls, timed, strict=True):
            results[index] = (time_us, "" if math.isfinite(time_us) else "failed while running")
        return results

    def _bind(
        self, tactic: Tactic, spec: LayerSpec, memory: list[Any], stream: Any
    ) -> Sequence[Call]:
        prepared = tactic.prepare(spec, _Unshared(self.weights))

        def buffer(tensor: TensorSpec, constant: str | None = None) -> Buffer:
            if constant is not None:
                return Buffer(tensor, constant=constant)
            block = self.backend.allocate(tensor.size_bytes)
            _fill(block, tensor)
            memory.append(block)
            return Buffer(tensor, self.backend.address(block))

        inputs = [buffer(t, c) for t, c in zip(spec.inputs, spec.constants, strict=True)]
        outputs = [buffer(t) for t in spec.outputs]
        workspace = self.backend.allocate(prepared.workspace_bytes)
        memory.append(workspace)
        return prepared.bind(inputs, outputs, self.backend.address(workspace), stream)


def _has_large_weights(candidates: Sequence[tuple[Tactic, LayerSpec]]) -> bool:
    """Whether the layer's constants are too large to stay cached from one call to the next."""
    spec = candidates[0][1]
    pairs = zip(spec.inputs, spec.constants, strict=True)
    return sum(t.size_bytes for t, constant in pairs if constant is not None) >= _LARGE_BYTES


class _Unshared(Weights):
    """Packed weights of candidates are dropped with them: only the winners' are kept."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def array(self, name: str) -> Array:
        """The engine's own constant."""
        return self._weights.array(name)

    def packed(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """Made for this candidate alone."""
        return make()


def _fill(block: Any, spec: TensorSpec) -> None:
    """Random floats, zeros for anything else (zero is a valid index and a valid bool)."""
    if not isinstance(block, np.ndarray) or not spec.dtype.is_float:
        return
    count = spec.size_bytes // 4
    values = np.random.default_rng(0).random(min(count, 65536), np.float32)
    if spec.dtype.itemsize_bytes == 4:
        block[: count * 4].view(np.float32)[:] = np.resize(values, count)
    elif spec.dtype.is_stored_as_bits and spec.dtype.itemsize_bytes == 2:
        bits = (values.view(np.uint32) >> 16).astype(np.uint16)
        block[: spec.size_bytes].view(np.uint16)[:] = np.resize(bits, spec.size_bytes // 2)


def estimate_us(spec: LayerSpec) -> float:
    """A rough time from the bytes moved at 10 GB/s: only ranks what nobody measured."""
    moved = sum(tensor.size_bytes for tensor in (*spec.inputs, *spec.outputs))
    return 1.0 + moved / 1e4
