"""Runs plugins between guard bytes: what writes where it must not is told by name.

Every plugin of an engine is run on its real inputs, copied to memory of its own:

    | guard | input or output | guard |

Guards must stay as they are, inputs too, and outputs must be written everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from torch2rt.backends.backend import Backend
from torch2rt.backends.buffer import Buffer
from torch2rt.backends.spec import TensorSpec
from torch2rt.engine.context import Context, Step
from torch2rt.engine.engine import Engine
from torch2rt.errors import PluginError
from torch2rt.inspect.bisect import bind_context
from torch2rt.layers.plugin import Plugin
from torch2rt.network.dtype import Array, DType

GUARD_BYTES = 256
_GUARD = 0xA5
# What outputs hold before each of two runs: no element is both.
_POISON = (0xFF, 0x5A)
_REMEDY = "It was given {given}. Check its indices against these shapes"


def check_plugins(engine: Engine, inputs: Sequence[torch.Tensor]) -> list[str]:
    """Run every plugin of an engine between guard bytes, on these inputs of the engine.

    Returns the names of the layers that were checked: those whose own kernel or function runs; a
    body in torch cannot write elsewhere. PluginError names the plugin, its layer and what it did.
    """
    runnable = engine.runnable(tuple(tuple(tensor.shape) for tensor in inputs))
    steps = runnable.executable.steps
    if not any(_is_checked(step) for step in steps):
        return []
    context = Context(runnable.executable)
    kept = bind_context(context, runnable, inputs, torch.device(engine.backend.device))
    checked = []
    for step, calls in zip(steps, context.calls_per_step, strict=True):
        if _is_checked(step):
            _Guarded(engine.backend, step, context).check()
            checked.append(step.spec.name)
        engine.backend.runner(calls)()
    del kept
    return checked


def _is_checked(step: Step) -> bool:
    return isinstance(step.spec.kind, Plugin) and step.plan_step.tactic.startswith("plugin.")


@dataclass
class _Block:
    """Guarded memory of one operand."""

    title: str
    spec: TensorSpec
    memory: Any
    address: int
    content: Array


class _Guarded:
    """One plugin step on guarded memory."""

    def __init__(self, backend: Backend, step: Step, context: Context) -> None:
        self.backend = backend
        self.step = step
        spec = step.spec
        self.inputs = [
            self._block(f"input {i}", tensor, self._read(context, index))
            if spec.constants[i] is None else None
            for i, (tensor, index) in enumerate(
                zip(spec.inputs, step.plan_step.inputs, strict=True)
            )
        ]
        self.outputs = [
            self._block(f"output {i}", tensor) for i, tensor in enumerate(spec.outputs)
        ]
        scratch = TensorSpec((step.prepared.workspace_bytes,), DType.UINT8)
        self.workspace = self._block("the workspace", scratch)

    def check(self) -> None:
        """Run twice on different garbage. PluginError for what it must not do."""
        results = [self._run(poison) for poison in _POISON]
        for block, first, second in zip(self.outputs, *results, strict=True):
            size = block.spec.dtype.itemsize_bytes
            is_left = (first == _POISON[0]) & (second == _POISON[1])
            count = int(is_left.reshape(-1, size).all(1).sum()) if is_left.size else 0
            if count:
                raise self._error(
                    f"it leaves {count} of {block.spec.element_count} elements of {block.title} "
                    "unwritten"
                )

    def _run(self, poison: int) -> list[Array]:
        blocks = [*(block for block in self.inputs if block is not None), *self.outputs,
                  self.workspace]
        for block in self.outputs:
            block.content = np.full(block.spec.size_bytes, poison, np.uint8)
        for block in blocks:
            self._write(block)
        spec = self.step.spec
        calls = self.step.prepared.bind(
            [
                Buffer(tensor, constant=name) if block is None else Buffer(tensor, block.address)
                for tensor, name, block in zip(
                    spec.inputs, spec.constants, self.inputs, strict=True
                )
            ],
            [Buffer(block.spec, block.address) for block in self.outputs],
            self.workspace.address, self.backend.new_stream(),
        )
        try:
            self.backend.runner(calls)()
            found = [self._checked(block) for block in blocks]
        except PluginError:
            raise
        except Exception as error:  # whatever the device's libraries raise: a fault, a bad launch
            raise self._error(f"its run ends in {type(error).__name__}: {error}") from error
        return found[len(blocks) - 1 - len(self.outputs) : -1]

    def _checked(self, block: _Block) -> Array:
        """The operand's bytes after a run; its guards are whole, and inputs as they were."""
        raw = self.backend.download_bytes(
            block.address - GUARD_BYTES, block.spec.size_bytes + 2 * GUARD_BYTES
        )
        before, after = raw[:GUARD_BYTES], raw[raw.size - GUARD_BYTES :]
        for where, guard in (("before", before), ("after", after)):
            count = int((guard != _GUARD).sum())
            if count:
                raise self._error(f"it writes {count} bytes {where} {block.title}")
        content = raw[GUARD_BYTES : raw.size - GUARD_BYTES]
        if block.title.startswith("input") and not np.array_equal(content, block.content):
            raise self._error(f"it changes {block.title}")
        return content

    def _block(self, title: str, spec: TensorSpec, content: Array | None = None) -> _Block:
        memory = self.backend.allocate(spec.size_bytes + 2 * GUARD_BYTES)
        address = self.backend.address(memory) + GUARD_BYTES
        empty = np.zeros(spec.size_bytes, np.uint8)
        return _Block(title, spec, memory, address, empty if content is None else content)

    def _read(self, context: Context, index: int) -> Array:
        buffer = context.buffer(index)
        raw = self.backend.download_bytes(buffer.address, buffer.spec.size_bytes)
        return np.array(raw)

    def _write(self, block: _Block) -> None:
        guard = np.full(GUARD_BYTES, _GUARD, np.uint8)
        self.backend.upload_bytes(
            block.address - GUARD_BYTES, np.concatenate([guard, block.content, guard])
        )

    def _error(self, reason: str) -> PluginError:
        spec = self.step.spec
        kind = spec.kind
        assert isinstance(kind, Plugin)
        given = ", ".join(str(tensor) for tensor in (*spec.inputs, *spec.outputs))
        return PluginError(
            name=kind.plugin, where=f", layer {spec.name} ({spec.where}), tactic "
            f"{self.step.plan_step.tactic}", reason=reason, remedy=_REMEDY.format(given=given),
        )
