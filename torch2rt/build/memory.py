"""The memory plan: every block of bytes gets an offset in one arena.

A block lives from the step that first writes it to the step that last reads it, both included.
Blocks whose lives overlap must not share bytes. Best fit, largest block first: for each block, the
smallest gap between those already placed that are alive at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes needed from step ``first`` to step ``last``, both included."""

    size_bytes: int
    first: int
    last: int


def plan_memory(blocks: Sequence[Block]) -> tuple[list[int], int]:
    """Offsets of the blocks, in order, and the size of the arena. Offsets are 64-byte aligned."""
    offsets = [0] * len(blocks)
    placed: list[int] = []
    order = sorted(
        range(len(blocks)),
        key=lambda i: (-blocks[i].size_bytes, blocks[i].first - blocks[i].last, i),
    )
    for index in order:
        block = blocks[index]
        neighbours = sorted(
            (offsets[other], offsets[other] + _aligned(blocks[other].size_bytes))
            for other in placed
            if blocks[other].first <= block.last and block.first <= blocks[other].last
        )
        offsets[index] = _best_gap(neighbours, _aligned(block.size_bytes))
        placed.append(index)
    end = max((offsets[i] + _aligned(blocks[i].size_bytes) for i in range(len(blocks))), default=0)
    return offsets, end


def live_bytes(blocks: Sequence[Block]) -> int:
    """The largest sum of sizes alive at one step: a lower bound of any arena."""
    changes: dict[int, int] = {}
    for block in blocks:
        size = _aligned(block.size_bytes)
        changes[block.first] = changes.get(block.first, 0) + size
        changes[block.last + 1] = changes.get(block.last + 1, 0) - size
    alive = most = 0
    for step in sorted(changes):
        alive += changes[step]
        most = max(most, alive)
    return most


def _best_gap(neighbours: list[tuple[int, int]], size: int) -> int:
    """Offset of the smallest gap that fits, else the end of the last neighbour."""
    best: tuple[int, int] | None = None
    end = 0
    for start, stop in neighbours:
        gap = start - end
        if gap >= size and (best is None or gap < best[0]):
            best = (gap, end)
        end = max(end, stop)
    return best[1] if best is not None else end


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
