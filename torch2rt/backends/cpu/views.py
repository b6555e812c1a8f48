"""Prepared tactics that place tensors in each other's memory and run nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch2rt.backends.buffer import Buffer
from torch2rt.backends.spec import TensorSpec
from torch2rt.backends.tactic import Call, Prepared, View


@dataclass
class ViewsPrepared(Prepared):
    """Only views."""

    views: tuple[View, ...]

    def bind(
        self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int, stream: Any
    ) -> Sequence[Call]:
        """Nothing to run."""
        return ()


WHOLE = (View(("output", 0), ("input", 0), 0),)


def memory_dims(spec: TensorSpec) -> list[tuple[int | None, int]]:
    """(axis, size) of a tensor's bytes, outermost first; blocks of channels count as axis None."""
    axes = list(enumerate(spec.shape))
    layout = spec.layout.value
    if spec.rank < 3 or layout == "plain":
        return [(axis, size) for axis, size in axes]
    if layout == "channels_last":
        return [axes[0], *axes[2:], axes[1]]
    block = spec.layout.block
    return [axes[0], (1, -(-spec.shape[1] // block)), *axes[2:], (None, block)]
