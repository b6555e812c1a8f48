"""Candidates for one layer, tried out: prepared, bound to memory, checked and timed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torch2rt.backends.backend import Backend
from torch2rt.backends.buffer import Buffer
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Call, Job, Prepared, Tactic, Unprepared, Weights
from torch2rt.build.blob_cache import BlobCache
from torch2rt.build.check import Checker, Expectation, Placed
from torch2rt.errors import DeviceError
from torch2rt.network.dtype import Array

logger = logging.getLogger(__name__)

# Constants of a layer from this size on come from memory at every call of a network.
_LARGE_BYTES = 1 << 20


@dataclass
class _Bound:
    """A candidate on memory of its own, or memory shared with its rivals."""

    tactic: Tactic
    spec: LayerSpec
    prepared: Prepared
    inputs: list[Buffer]
    outputs: list[Buffer]
    workspace: int
    calls: Sequence[Call]
    blocks: list[Any]


@dataclass
class Trial:
    """Tries candidates for one layer. With a checker, only right ones are timed."""

    backend: Backend
    weights: Weights
    blobs: BlobCache
    checker: Checker | None = None
    budget_ms: float = 20.0
    _stream: Any = None
    _shared: dict[tuple[str, int, TensorSpec], Any] = field(default_factory=dict)

    def run(self, candidates: Sequence[tuple[Tactic, LayerSpec]]) -> list[tuple[float, str]]:
        """Time of each candidate in microseconds, or infinity and why it failed."""
        results: list[tuple[float, str]] = [(math.inf, "")] * len(candidates)
        bound: dict[int, _Bound] = {}
        with self.backend.exclusive(), self.backend.building():
            self._stream = self.backend.new_stream()
            weights = _LayerWeights(self.weights, self.blobs)
            for index, (tactic, spec) in enumerate(candidates):
                try:
                    bound[index] = self._bind(tactic, spec, weights)
                except Unprepared as error:
                    results[index] = (math.inf, str(error))
                    logger.debug("%s for %s: %s", tactic.name, spec.name, error)
            for index, reason in self._wrong(bound).items():
                results[index] = (math.inf, reason)
                del bound[index]
            is_cold = _has_large_weights(candidates[0][1])
            warm = [candidate.blocks for candidate in bound.values()] if is_cold else None
            timed = self.backend.time_calls_us(
                [candidate.calls for candidate in bound.values()], self.budget_ms, warm
            )
        for index, time_us in zip(bound, timed, strict=True):
            results[index] = (time_us, "" if math.isfinite(time_us) else "failed while running")
        return results

    # ---- memory ----------------------------------------------------------------------------

    def _bind(self, tactic: Tactic, spec: LayerSpec, weights: Weights) -> _Bound:
        prepared = tactic.prepare(spec, weights)
        blocks: list[Any] = []

        def buffer(role: str, index: int, tensor: TensorSpec, constant: str | None) -> Buffer:
            if constant is not None:
                return Buffer(tensor, constant=constant)
            blocks.append(self._block(role, index, tensor))
            return Buffer(tensor, self.backend.address(blocks[-1]))

        pairs = zip(spec.inputs, spec.constants, strict=True)
        inputs = [buffer("input", i, tensor, name) for i, (tensor, name) in enumerate(pairs)]
        outputs = [buffer("output", i, tensor, None) for i, tensor in enumerate(spec.outputs)]
        blocks.append(self.backend.allocate(prepared.workspace_bytes))
        workspace = self.backend.address(blocks[-1])
        calls = prepared.bind(inputs, outputs, workspace, self._stream)
        return _Bound(tactic, spec, prepared, inputs, outputs, workspace, calls, blocks)

    def _block(self, role: str, index: int, tensor: TensorSpec) -> Any:
        """Memory for an operand; rivals that are checked one by one share it."""
        key = (role, index, tensor)
        if key in self._shared:
            return self._shared[key]
        block = self.backend.allocate(tensor.extent_bytes)
        if self.checker is not None:
            self._shared[key] = block
        elif isinstance(block, np.ndarray):
            _fill(block, tensor)
        else:
            data = np.zeros(tensor.extent_bytes, np.uint8)
            _fill(data, tensor)
            self.backend.upload_bytes(self.backend.address(block), data)
        return block

    # ---- checks ----------------------------------------------------------------------------

    def _wrong(self, bound: dict[int, _Bound]) -> dict[int, str]:
        """Candidates that do not agree with the reference, and how."""
        if self.checker is None or not bound:
            return {}
        expectation = self.checker.expectation(next(iter(bound.values())).spec, self.weights)
        wrong = {}
        for index, candidate in bound.items():
            reason = self._check(candidate, expectation, self.checker)
            if reason is not None:
                logger.warning("%s for %s (%s) is not used: %s", candidate.tactic.name,
                               candidate.spec.name, candidate.spec.signature, reason)
                wrong[index] = reason
        return wrong

    def _check(
        self, candidate: _Bound, expectation: Expectation, checker: Checker
    ) -> str | None:
        """What is wrong with a candidate, also when it writes over an input."""
        for overwritten in (None, *candidate.prepared.may_overwrite):
            outputs, calls = candidate.outputs, candidate.calls
            if overwritten is not None:
                if candidate.inputs[overwritten].constant is not None:
                    continue
                address = candidate.inputs[overwritten].address
                outputs = [Buffer(outputs[0].spec, address), *outputs[1:]]
                calls = candidate.prepared.bind(
                    candidate.inputs, outputs, candidate.workspace, self._stream
                )
            placed = [Placed(buffer.spec, buffer.address) for buffer in outputs]
            checker.fill(
                expectation, [Placed(b.spec, b.address) for b in candidate.inputs], placed
            )
            try:
                self.backend.runner(calls)()
            except DeviceError as error:
                return f"it fails while running ({error.facts['reason']})"
            reason = checker.error(expectation, placed)
            if reason is not None:
                return reason if overwritten is None else f"over input {overwritten}: {reason}"
        return None


def _has_large_weights(spec: LayerSpec) -> bool:
    """Whether the layer's constants are too large to stay cached from one call to the next."""
    pairs = zip(spec.inputs, spec.constants, strict=True)
    return sum(t.size_bytes for t, constant in pairs if constant is not None) >= _LARGE_BYTES


class _LayerWeights(Weights):
    """Packed weights of candidates are dropped with them: only the winners' are kept."""

    def __init__(self, weights: Weights, blobs: BlobCache) -> None:
        self._weights = weights
        self._blobs = blobs
        self._packed: dict[tuple[Any, ...], Any] = {}

    def array(self, name: str) -> Array:
        """The engine's own constant."""
        return self._weights.array(name)

    def packed(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """Made once for this layer's candidates."""
        if key not in self._packed:
            self._packed[key] = make()
        return self._packed[key]

    def blob(self, key: str, job: Job) -> bytes:
        """From the builder's cache."""
        return self._blobs.fetch(key, job)


def _fill(block: Array, spec: TensorSpec) -> None:
    """Random floats, zeros for anything else (zero is a valid index and a valid bool)."""
    if not spec.dtype.is_float:
        return
    count = spec.extent_bytes // 4
    values = np.random.default_rng(0).random(min(count, 65536), np.float32)
    if spec.dtype.itemsize_bytes == 4:
        block[: count * 4].view(np.float32)[:] = np.resize(values, count)
    elif spec.dtype.itemsize_bytes == 2:
        is_bits = spec.dtype.is_stored_as_bits
        bits = values.view(np.uint32) >> 16 if is_bits else values.astype(np.float16)
        words = spec.extent_bytes // 2
        block[: words * 2].view(np.uint16)[:] = np.resize(
            bits.astype(np.uint16) if is_bits else bits.view(np.uint16), words
        )
