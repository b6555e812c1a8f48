"""Where a value lies inside another: dense, or in runs of bytes a pitch apart."""

from __future__ import annotations

from dataclasses import dataclass

ALIGNMENT_BYTES = 16


@dataclass(frozen=True, slots=True)
class Piece:
    """``size_bytes`` from ``offset_bytes`` on: together, or ``run_bytes`` every ``pitch_bytes``.

    A pitch of 0 means together. Runs are whole: the size is a multiple of the run.
    """

    offset_bytes: int
    size_bytes: int
    run_bytes: int = 0
    pitch_bytes: int = 0

    @property
    def end_bytes(self) -> int:
        """Where its last run ends."""
        if not self.pitch_bytes:
            return self.offset_bytes + self.size_bytes
        runs = self.size_bytes // self.run_bytes
        return self.offset_bytes + (runs - 1) * self.pitch_bytes + self.run_bytes

    @property
    def is_dense(self) -> bool:
        """Whether its bytes lie together."""
        return self.pitch_bytes == 0

    @property
    def is_aligned(self) -> bool:
        """Whether every run starts at, and has, whole units of 16 bytes."""
        numbers = (self.offset_bytes, self.run_bytes, self.pitch_bytes)
        return all(number % ALIGNMENT_BYTES == 0 for number in numbers)

    def inside(self, outer: Piece) -> Piece | None:
        """Where it lies in what ``outer`` lies in; None if that is no piece.

        Channels 16..24 of the 32 channels that a tensor has of the 64 of a concat, say.
        """
        if outer.is_dense:
            offset = outer.offset_bytes + self.offset_bytes
            return Piece(offset, self.size_bytes, self.run_bytes, self.pitch_bytes)
        row, column = divmod(self.offset_bytes, outer.run_bytes)
        offset = outer.offset_bytes + row * outer.pitch_bytes + column
        length = self.end_bytes - self.offset_bytes
        if column + length <= outer.run_bytes:  # all in one run
            return Piece(offset, self.size_bytes, self.run_bytes, self.pitch_bytes)
        if self.is_dense and column == 0 and length % outer.run_bytes == 0:  # whole runs
            return Piece(offset, self.size_bytes, outer.run_bytes, outer.pitch_bytes)
        if (
            not self.is_dense
            and self.pitch_bytes % outer.run_bytes == 0
            and column + self.run_bytes <= outer.run_bytes
        ):  # a part of every run, or of every n-th
            pitch = self.pitch_bytes // outer.run_bytes * outer.pitch_bytes
            return Piece(offset, self.size_bytes, self.run_bytes, pitch)
        return None

    def shares_bytes(self, other: Piece) -> bool:
        """Whether some byte belongs to both; True also where that is hard to tell."""
        if self.end_bytes <= other.offset_bytes or other.end_bytes <= self.offset_bytes:
            return False
        pitch = self.pitch_bytes or other.pitch_bytes
        if not pitch or {self.pitch_bytes, other.pitch_bytes} - {0, pitch}:
            return True
        return _meet(self, other, pitch) or _meet(other, self, pitch)


def _meet(left: Piece, right: Piece, pitch: int) -> bool:
    """Whether the columns of ``right``, counted from those of ``left``, reach into them."""
    column = (right.offset_bytes - left.offset_bytes) % pitch
    run = left.run_bytes or left.size_bytes
    return column < run or column + (right.run_bytes or right.size_bytes) > pitch
