"""The memory plan: every block of bytes gets an offset in one arena.

A block lives from the step that first writes it to the step that last reads it, both included.
Blocks whose lives overlap must not share bytes. With several streams, lives are compared by what
happens before what (see `torch2rt.build.schedule`), not by the order of the list. Best fit: for
each block, the smallest gap between those already placed that are alive at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes needed from step ``first`` to step ``last``, both included.

    With several streams, ``begin`` and ``end`` hold a step per stream: the last that has ended
    before anything touches the block, and the last that touches it.
    """

    size_bytes: int
    first: int
    last: int
    begin: tuple[int, ...] = ()
    end: tuple[int, ...] = ()

    def overlaps(self, other: Block) -> bool:
        """Whether the two may be in use at the same time."""
        if not self.begin:
            return self.first <= other.last and other.first <= self.last
        return not (_precedes(self, other) or _precedes(other, self))


def _precedes(early: Block, late: Block) -> bool:
    return all(end <= begin for end, begin in zip(early.end, late.begin, strict=True))


def plan_memory(blocks: Sequence[Block]) -> tuple[list[int], int]:
    """Offsets of the blocks, in order, and the size of the arena. Offsets are 64-byte aligned.

    Several orders of placement are tried, the first that reaches the lower bound is taken, else
    the best of all.
    """
    bound = live_bytes(blocks)
    best: tuple[int, list[int]] | None = None
    for order in _ORDERS:
        offsets = _place(blocks, sorted(range(len(blocks)), key=lambda i: (*order(blocks[i]), i)))
        end = max((o + _aligned(b.size_bytes) for o, b in zip(offsets, blocks, strict=True)),
                  default=0)
        if best is None or end < best[0]:
            best = (end, offsets)
        if end <= bound:
            break
    assert best is not None
    return best[1], best[0]


_ORDERS: tuple[Callable[[Block], tuple[int, ...]], ...] = (
    lambda b: (-b.size_bytes, b.first - b.last),
    lambda b: (-b.size_bytes, b.first),
    lambda b: (-b.size_bytes * (b.last - b.first + 1),),
    lambda b: (b.first - b.last, -b.size_bytes),
    lambda b: (b.first, -b.size_bytes),
    lambda b: (-b.last, -b.size_bytes),
)


def _place(blocks: Sequence[Block], order: Sequence[int]) -> list[int]:
    """Offsets when blocks are placed in this order, each in the smallest gap that fits."""
    offsets = [0] * len(blocks)
    placed: list[int] = []
    for index in order:
        block = blocks[index]
        neighbours = sorted(
            (offsets[other], offsets[other] + _aligned(blocks[other].size_bytes))
            for other in placed
            if block.overlaps(blocks[other])
        )
        offsets[index] = _best_gap(neighbours, _aligned(block.size_bytes))
        placed.append(index)
    return offsets


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
