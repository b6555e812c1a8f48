"""Which tensors share memory, and where each one lies.

Every value of a plan starts as a block of its own. A *view* places one value inside another (a
reshape, a slice, an input of a concat that is written in place); an *overwrite* lets a step write
its result over an input that nobody reads any more. Both link a value to a parent at an offset;
the roots that remain become blocks of the arena, or are memory of the caller.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch2rt.build.memory import Block, live_bytes, plan_memory
from torch2rt.engine.plan import Storage

Key: TypeAlias = Hashable


@dataclass
class _Value:
    size_bytes: int
    place: str = "arena"
    binding: str = ""
    parent: tuple[Key, int] | None = None
    first: int | None = None
    last: int = -1
    reads: list[int] = field(default_factory=list)


@dataclass
class StoragePlan:
    """Links between values, their lives, and at the end their storage."""

    values: dict[Key, _Value] = field(default_factory=dict)

    def declare(self, key: Key, size_bytes: int, place: str = "arena", binding: str = "") -> None:
        """A value: in the arena, or memory of the caller ("input", "output", "constant")."""
        self.values[key] = _Value(size_bytes, place, binding)

    def written(self, key: Key, step: int) -> None:
        """The value is written by this step."""
        value = self.values[key]
        value.first = step if value.first is None else min(value.first, step)
        value.last = max(value.last, step)

    def read(self, key: Key, step: int) -> None:
        """The value is read by this step; once per input that it is."""
        value = self.values[key]
        value.reads.append(step)
        value.last = max(value.last, step)

    def root(self, key: Key) -> tuple[Key, int]:
        """The outermost value it lies in, and its offset there in bytes."""
        offset = 0
        while (parent := self.values[key].parent) is not None:
            key = parent[0]
            offset += parent[1]
        return key, offset

    def place_inside(self, inner: Key, outer: Key, offset_bytes: int) -> str | None:
        """Make ``inner`` a part of ``outer``; the reason when that is not possible."""
        value, container = self.values[inner], self.values[outer]
        if value.parent is not None:
            return "it already lies inside another tensor"
        if self.root(outer)[0] == inner:
            return "each would lie inside the other"
        if offset_bytes + value.size_bytes > container.size_bytes:
            return "it does not fit"
        if "constant" in (value.place, container.place):
            return "a constant has its own memory"
        if value.place == "input":
            return "it is memory of the caller"
        if value.place == "output":
            return self._claim_output(value, outer, offset_bytes)
        value.parent = (outer, offset_bytes)
        return None

    def _claim_output(self, value: _Value, outer: Key, offset_bytes: int) -> str | None:
        """An output of the network covers the whole of its root: the root takes its place."""
        root_key, root_offset = self.root(outer)
        root = self.values[root_key]
        if root.place != "arena":
            return "two bindings would share memory"
        if root_offset + offset_bytes or root.size_bytes != value.size_bytes:
            return "it is an output of the network and only part of the other"
        root.place, root.binding = "output", value.binding
        value.place = "arena"
        value.parent = (outer, offset_bytes)
        return None

    def overwrite(self, result: Key, operand: Key, step: int) -> bool:
        """Let ``result`` take over the memory of ``operand`` at ``step``, if nobody minds.

        The step itself minds if it reads that memory through a second input too, such as x in
        conv(x) + x or x - x[:1] (it would read there what it has just written), or if it has
        put another result there.
        """
        value, source = self.values[result], self.values[operand]
        root_key, _ = self.root(operand)
        if value.parent is not None or source.parent is not None or root_key != operand:
            return False
        if value.place != "arena" or source.place != "arena":
            return False
        if value.size_bytes != source.size_bytes:
            return False
        if self._last_use(operand) > step or self._read_count(operand, step) > 1:
            return False
        if any(v.first is not None and v.first >= step for v in self._inside(operand)):
            return False
        value.parent = (operand, 0)
        return True

    def _last_use(self, root: Key) -> int:
        """The last step that touches anything inside a root."""
        return max(value.last for value in self._inside(root))

    def _read_count(self, root: Key, step: int) -> int:
        """How many inputs of a step lie inside a root."""
        return sum(value.reads.count(step) for value in self._inside(root))

    def _inside(self, root: Key) -> list[_Value]:
        return [value for key, value in self.values.items() if self.root(key)[0] == root]

    def finish(self, workspaces: Sequence[int]) -> FinishedStorage:
        """Offsets for all values and for the workspace (in bytes) of each step."""
        lives: dict[Key, tuple[int, int]] = {}
        for key, value in self.values.items():
            root, _ = self.root(key)
            first = value.first if value.first is not None else value.last
            if self.values[root].place != "arena" or value.last < 0:
                continue
            low, high = lives.get(root, (first, value.last))
            lives[root] = (min(low, first), max(high, value.last))
        blocks = [Block(self.values[r].size_bytes, lo, hi) for r, (lo, hi) in lives.items()]
        blocks += [Block(size, step, step) for step, size in enumerate(workspaces) if size]
        offsets, arena_bytes = plan_memory(blocks)
        root_offsets = dict(zip(lives, offsets, strict=False))
        rest = iter(offsets[len(lives):])
        return FinishedStorage(
            {key: self._storage(key, root_offsets) for key in self.values},
            [next(rest) if size else 0 for size in workspaces],
            arena_bytes,
            live_bytes(blocks),
        )

    def _storage(self, key: Key, root_offsets: dict[Key, int]) -> Storage:
        root_key, offset = self.root(key)
        root = self.values[root_key]
        return Storage(root.place, root.binding, root_offsets.get(root_key, 0) + offset)


@dataclass(frozen=True, slots=True)
class FinishedStorage:
    """Storage of every value, offsets of the workspaces, arena size and its lower bound."""

    storage: dict[Key, Storage]
    workspace_offsets: list[int]
    arena_bytes: int
    live_bytes: int
