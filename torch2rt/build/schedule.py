"""Streams: which steps of a plan may run side by side, and which must wait for which.

Steps keep their order in the list. Steps of one stream follow each other; a step of another
stream is waited for where it touches the same bytes. What follows from that is a partial order,
"happens before", held as one clock per step: the last step of each stream that has ended when it
starts. Memory may be shared only between values that this order keeps apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from torch2rt.build.piece import Piece

# What waiting for a step of another stream costs.
SYNC_US = 1.5
# Streams that promise to save less are not used.
LEAST_GAIN = 0.03

# The last step of each stream; -1: none.
Clock: TypeAlias = tuple[int, ...]


class Access(NamedTuple):
    """A step reads or writes a piece of some block of memory."""

    step: int
    piece: Piece
    is_write: bool


@dataclass(frozen=True, slots=True)
class Schedule:
    """The stream of every step, the earlier steps it waits for, and its clock at the start."""

    streams: tuple[int, ...]
    waits: tuple[tuple[int, ...], ...]
    clocks: tuple[Clock, ...]
    time_us: float

    @property
    def stream_count(self) -> int:
        """Streams it uses."""
        return max(self.streams, default=0) + 1

    def happens_before(self, early: int, late: int) -> bool:
        """Whether one step has certainly ended when the other starts."""
        return early <= self.clocks[late][self.streams[early]]

    def begin(self, steps: Sequence[int]) -> Clock:
        """The last step of each stream that has ended before any of these starts."""
        return tuple(min(column) for column in zip(*(self.clocks[s] for s in steps), strict=True))

    def end(self, steps: Sequence[int]) -> Clock:
        """The last of these steps on each stream."""
        last = [-1] * self.stream_count
        for step in steps:
            last[self.streams[step]] = max(last[self.streams[step]], step)
        return tuple(last)


def dependencies(blocks: Sequence[Sequence[Access]], step_count: int) -> list[set[int]]:
    """For every step the earlier ones that touch bytes it touches, one of them writing.

    ``blocks`` holds the accesses of each block of memory.
    """
    before: list[set[int]] = [set() for _ in range(step_count)]
    for accesses in blocks:
        writes = [access for access in accesses if access.is_write]
        for write in writes:
            for other in accesses:
                if other.step != write.step and write.piece.shares_bytes(other.piece):
                    early, late = sorted((write.step, other.step))
                    before[late].add(early)
    return before


def make_schedule(
    before: Sequence[set[int]], times_us: Sequence[float], stream_count: int
) -> Schedule:
    """Each step on the stream where it could start first, were streams all that it waits for.

    Of several such streams, the one that the step it waits for longest is on.
    """
    free_us = [0.0] * stream_count
    end_us: list[float] = []
    streams: list[int] = []
    for step, time_us in enumerate(times_us):
        latest = max(before[step], key=lambda other: (end_us[other], other), default=None)
        home = streams[latest] if latest is not None else 0

        def start_us(stream: int, step: int = step) -> float:
            ready = (
                end_us[other] + (SYNC_US if streams[other] != stream else 0.0)
                for other in before[step]
            )
            return max(free_us[stream], *ready, 0.0)

        stream = min(range(stream_count), key=lambda s: (start_us(s), s != home, s))
        end_us.append(start_us(stream) + time_us)
        free_us[stream] = end_us[-1]
        streams.append(stream)
    waits, clocks = _clocks(before, streams, max(streams, default=0) + 1)
    return Schedule(tuple(streams), tuple(waits), tuple(clocks), max(end_us, default=0.0))


def _clocks(
    before: Sequence[set[int]], streams: Sequence[int], stream_count: int
) -> tuple[list[tuple[int, ...]], list[Clock]]:
    """The fewest waits that order every step after those before it; the clocks that follow."""
    waits: list[tuple[int, ...]] = []
    clocks: list[Clock] = []
    latest = [-1] * stream_count

    def after(step: int) -> list[int]:
        clock = list(clocks[step])
        clock[streams[step]] = step
        return clock

    for step, stream in enumerate(streams):
        clock = after(latest[stream]) if latest[stream] >= 0 else [-1] * stream_count
        needed = []
        for other in sorted(before[step], reverse=True):
            if clock[streams[other]] < other:
                needed.append(other)
                clock = [max(pair) for pair in zip(clock, after(other), strict=True)]
        waits.append(tuple(sorted(needed)))
        clocks.append(tuple(clock))
        latest[stream] = step
    return waits, clocks


def worth_streams(
    before: Sequence[set[int]], times_us: Sequence[float], stream_count: int
) -> Schedule | None:
    """A schedule that promises to be faster than one step after the other; else None."""
    if stream_count < 2:
        return None
    schedule = make_schedule(before, times_us, stream_count)
    serial_us = sum(times_us)
    is_worth = schedule.stream_count > 1 and schedule.time_us <= (1 - LEAST_GAIN) * serial_us
    return schedule if is_worth else None
