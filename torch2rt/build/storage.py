"""Which tensors share memory, and where each one lies.

Every value of a plan starts as a block of its own. A *view* places one value inside another (a
reshape, a slice, an input of a concat that is written in place), together or in runs of bytes; an
*overwrite* lets a step write its result over an input that nobody reads any more. Both link a
value to a piece of a parent; the roots that remain become blocks of the arena, or are memory of
the caller.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch2rt.build.memory import Block, live_bytes, plan_memory
from torch2rt.build.piece import Piece
from torch2rt.build.schedule import Access, Schedule
from torch2rt.engine.plan import Storage

Key: TypeAlias = Hashable
Snapshot: TypeAlias = dict[Key, tuple[tuple[Key, Piece] | None, str, str]]


@dataclass
class _Value:
    size_bytes: int
    place: str = "arena"
    binding: str = ""
    parent: tuple[Key, Piece] | None = None
    first: int | None = None
    last: int = -1
    reads: list[int] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)


@dataclass
class StoragePlan:
    """Links between values, their lives, and at the end their storage."""

    values: dict[Key, _Value] = field(default_factory=dict)
    _has_runs: bool = False

    def declare(self, key: Key, size_bytes: int, place: str = "arena", binding: str = "") -> None:
        """A value: in the arena, or memory of the caller ("input", "output", "constant")."""
        self.values[key] = _Value(size_bytes, place, binding)

    def written(self, key: Key, step: int) -> None:
        """The value is written by this step."""
        value = self.values[key]
        value.writes.append(step)
        value.first = step if value.first is None else min(value.first, step)
        value.last = max(value.last, step)

    def read(self, key: Key, step: int) -> None:
        """The value is read by this step; once per input that it is."""
        value = self.values[key]
        value.reads.append(step)
        value.last = max(value.last, step)

    def root(self, key: Key) -> tuple[Key, int]:
        """The outermost value it lies in, and its offset there in bytes."""
        root, piece = self.place(key)
        return root, piece.offset_bytes

    def place(self, key: Key) -> tuple[Key, Piece]:
        """The outermost value it lies in, and the piece of that which it is."""
        root, piece = self._place(key)
        if piece is None:
            raise ValueError(f"{key} is no piece of what it lies in")
        return root, piece

    def _place(self, key: Key) -> tuple[Key, Piece | None]:
        value = self.values[key]
        if value.parent is None:
            return key, Piece(0, value.size_bytes)
        outer, link = value.parent
        root, piece = self._place(outer)
        return root, link.inside(piece) if piece is not None else None

    def all_of(self, key: Key) -> Key:
        """The outermost value that is just this one's memory: what a reshape is all of, say."""
        while (parent := self.values[key].parent) is not None:
            outer, piece = parent
            is_whole = piece.is_dense and piece.size_bytes == self.values[outer].size_bytes
            if not is_whole:
                break
            key = outer
        return key

    def place_inside(
        self, inner: Key, outer: Key, offset_bytes: int, run_bytes: int = 0, pitch_bytes: int = 0,
        *, may_join: bool = False,
    ) -> str | None:
        """Make ``inner`` a part of ``outer``; the reason when that is not possible.

        ``run_bytes`` every ``pitch_bytes`` if it is not dense there. With ``may_join`` it may be
        part of two: what ends each row of one tensor and begins each row of the other.
        """
        value, container = self.values[inner], self.values[outer]
        piece = Piece(offset_bytes, value.size_bytes, run_bytes, pitch_bytes)
        if value.parent is not None:
            if may_join and self._join(value, outer, piece):
                return None
            return "it already lies inside another tensor"
        if self._root_key(outer) == inner:
            return "each would lie inside the other"
        if piece.end_bytes > container.size_bytes:
            return "it does not fit"
        if "constant" in (value.place, container.place):
            return "a constant has its own memory"
        if value.place == "input":
            return "it is memory of the caller"
        if value.place == "output":
            return self._claim_output(value, outer, piece)
        value.parent = (outer, piece)
        has_runs = self._has_runs or not piece.is_dense
        if has_runs and not self._are_pieces():
            value.parent = None
            return "what lies inside would not lie in even runs of whole 16 bytes"
        self._has_runs = has_runs
        return None

    def _join(self, value: _Value, outer: Key, piece: Piece) -> bool:
        """Let a value that ends the rows of one tensor begin those of another.

        Rows a a a s s  and  s s b b  become parts of rows  a a a s s b b  of a wider block.
        """
        assert value.parent is not None
        other, old = value.parent
        for left, last, right, first in ((other, old, outer, piece), (outer, piece, other, old)):
            run, rows = last.run_bytes, value.size_bytes // max(last.run_bytes, 1)
            ends = last.offset_bytes + run == last.pitch_bytes
            begins = first.offset_bytes == 0 and first.run_bytes == run > 0
            widths = (last.pitch_bytes, first.pitch_bytes)
            are_free = all(
                self.values[key].parent is None and self.values[key].place == "arena"
                and self.values[key].size_bytes == rows * width
                for key, width in zip((left, right), widths, strict=True)
            )
            if not (ends and begins and are_free) or left == right:
                continue
            width = sum(widths) - run
            joined = ("joined", left, right)
            before = self.snapshot()
            self.values[joined] = _Value(rows * width)
            for key, at, own in ((left, 0, widths[0]), (right, widths[0] - run, widths[1])):
                part = Piece(at, rows * own, own, width)
                self.values[key].parent = (joined, part)
            if self._are_pieces():
                return True
            self.restore(before)
        return False

    def parent(self, key: Key) -> Key | None:
        """What a value lies in."""
        found = self.values[key].parent
        return found[0] if found is not None else None

    def snapshot(self) -> Snapshot:
        """What lies where at the moment."""
        return {key: (value.parent, value.place, value.binding)
                for key, value in self.values.items()}

    def restore(self, before: Snapshot) -> None:
        """Undo what has been placed since a snapshot."""
        for key in [key for key in self.values if key not in before]:
            del self.values[key]
        for key, (parent, place, binding) in before.items():
            value = self.values[key]
            value.parent, value.place, value.binding = parent, place, binding

    def _are_pieces(self) -> bool:
        """Whether all values can be described where they lie; what is dense may start anywhere."""
        for key, value in self.values.items():
            if value.parent is not None:
                _, piece = self._place(key)
                if piece is None or not (piece.is_dense or piece.is_aligned):
                    return False
        return True

    def _root_key(self, key: Key) -> Key:
        while (parent := self.values[key].parent) is not None:
            key = parent[0]
        return key

    def _claim_output(self, value: _Value, outer: Key, piece: Piece) -> str | None:
        """An output of the network covers the whole of its root: the root takes its place."""
        root_key, within = self.place(outer)
        root = self.values[root_key]
        if root.place != "arena":
            return "two bindings would share memory"
        is_whole = within.is_dense and piece.is_dense and root.size_bytes == value.size_bytes
        if within.offset_bytes + piece.offset_bytes or not is_whole:
            return "it is an output of the network and only part of the other"
        root.place, root.binding = "output", value.binding
        value.place = "arena"
        value.parent = (outer, piece)
        return None

    def overwrite(self, result: Key, operand: Key, step: int) -> bool:
        """Let ``result`` take over the memory of ``operand`` at ``step``, if nobody minds.

        The step itself minds if it reads that memory through a second input too, such as x in
        conv(x) + x or x - x[:1] (it would read there what it has just written), or if it has
        put another result there.
        """
        value, source = self.values[result], self.values[operand]
        if value.parent is not None or source.parent is not None:
            return False
        if value.place != "arena" or source.place != "arena":
            return False
        if value.size_bytes != source.size_bytes:
            return False
        if self._last_use(operand) > step or self._read_count(operand, step) > 1:
            return False
        if any(v.first is not None and v.first >= step for v in self._inside(operand)):
            return False
        value.parent = (operand, Piece(0, value.size_bytes))
        return True

    def _last_use(self, root: Key) -> int:
        """The last step that touches anything inside a root."""
        return max(value.last for value in self._inside(root))

    def _read_count(self, root: Key, step: int) -> int:
        """How many inputs of a step lie inside a root."""
        return sum(value.reads.count(step) for value in self._inside(root))

    def _inside(self, root: Key) -> list[_Value]:
        return [value for key, value in self.values.items() if self._root_key(key) == root]

    def accesses(self, numbers: Mapping[int, int]) -> dict[Key, list[Access]]:
        """What the steps do to each root, in the order of the steps.

        ``numbers`` gives each step's number; steps without one run nothing.
        """
        found: dict[Key, list[Access]] = {}
        for key, value in self.values.items():
            root, piece = self.place(key)
            accesses = found.setdefault(root, [])
            for steps, is_write in ((value.reads, False), (value.writes, True)):
                accesses += [
                    Access(numbers[step], piece, is_write) for step in steps if step in numbers
                ]
        return {root: sorted(rows, key=lambda row: row.step) for root, rows in found.items()}

    def finish(self, workspaces: Sequence[int]) -> FinishedStorage:
        """Offsets for all values and for the workspace (in bytes) of each step."""
        lives: dict[Key, Block] = {}
        for key, value in self.values.items():
            root = self._root_key(key)
            first = value.first if value.first is not None else value.last
            if self.values[root].place != "arena" or value.last < 0:
                continue
            size = self.values[root].size_bytes
            life = lives.get(root, Block(size, first, value.last))
            lives[root] = Block(size, min(life.first, first), max(life.last, value.last))
        blocks = [Block(size, step, step) for step, size in enumerate(workspaces) if size]
        return self._finish(lives, blocks, workspaces)

    def finish_scheduled(
        self, workspaces: Sequence[int], schedule: Schedule, numbers: Mapping[int, int]
    ) -> FinishedStorage:
        """The same when steps run on several streams."""

        def block(size: int, steps: Sequence[int]) -> Block:
            return Block(
                size, min(steps), max(steps), schedule.begin(steps), schedule.end(steps)
            )

        lives = {
            root: block(self.values[root].size_bytes, [access.step for access in accesses])
            for root, accesses in self.accesses(numbers).items()
            if accesses and self.values[root].place == "arena"
        }
        blocks = [block(size, [numbers[i]]) for i, size in enumerate(workspaces) if size]
        return self._finish(lives, blocks, workspaces)

    def _finish(
        self, lives: Mapping[Key, Block], extra: Sequence[Block], workspaces: Sequence[int]
    ) -> FinishedStorage:
        """``extra`` are the blocks of the workspaces that are not empty."""
        blocks = [*lives.values(), *extra]
        offsets, arena_bytes = plan_memory(blocks)
        root_offsets = dict(zip(lives, offsets, strict=False))
        rest = iter(offsets[len(lives):])
        return FinishedStorage(
            {key: self._storage(key, root_offsets) for key in self.values},
            [next(rest) if size else 0 for size in workspaces],
            arena_bytes,
            live_bytes(blocks),
        )

    def _storage(self, key: Key, root_offsets: Mapping[Key, int]) -> Storage:
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
