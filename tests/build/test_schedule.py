"""Streams against brute force: what happens before what, and memory that nobody races for."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torch2rt.build.memory import Block, plan_memory
from torch2rt.build.piece import Piece
from torch2rt.build.schedule import (
    Access,
    Schedule,
    dependencies,
    make_schedule,
    worth_streams,
)
from torch2rt.build.storage import StoragePlan

fuzz = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def reachable(schedule: Schedule) -> np.ndarray:
    """[i, j]: step i ends before step j starts, found from streams and waits alone."""
    count = len(schedule.streams)
    before = np.zeros((count, count), bool)
    for late in range(count):
        for early in range(late):
            is_same = schedule.streams[early] == schedule.streams[late]
            if is_same or early in schedule.waits[late]:
                before[early, late] = True
                before[:, late] |= before[:, early]
    return before


@dataclass
class Dag:
    before: list[set[int]]
    times_us: list[float]
    streams: int


@st.composite
def dags(draw: st.DrawFn) -> Dag:
    count = draw(st.integers(1, 14))
    before = [
        set(draw(st.lists(st.integers(0, step - 1), max_size=3))) if step else set()
        for step in range(count)
    ]
    times = draw(st.lists(st.sampled_from([1.0, 3.0, 20.0]), min_size=count, max_size=count))
    return Dag(before, times, draw(st.integers(1, 4)))


@fuzz
@given(dags())
def test_clocks_say_what_streams_and_waits_mean(dag: Dag) -> None:
    schedule = make_schedule(dag.before, dag.times_us, dag.streams)
    ends_before = reachable(schedule)
    for late, early_steps in enumerate(dag.before):
        assert all(ends_before[early, late] for early in early_steps)
        for early in range(late):
            assert schedule.happens_before(early, late) == ends_before[early, late]
        waited = [schedule.streams[step] for step in schedule.waits[late]]
        assert len(set(waited)) == len(waited)
        assert schedule.streams[late] not in waited


@fuzz
@given(dags())
def test_streams_are_no_slower_than_one_and_no_faster_than_the_longest_path(dag: Dag) -> None:
    found = worth_streams(dag.before, dag.times_us, dag.streams)
    if found is None:
        return
    longest: list[float] = []
    for step, time_us in enumerate(dag.times_us):
        longest.append(time_us + max((longest[i] for i in dag.before[step]), default=0.0))
    assert max(longest) <= found.time_us < sum(dag.times_us)


@fuzz
@given(dags(), st.data())
def test_values_that_share_bytes_are_never_in_use_at_once(dag: Dag, data: st.DataObject) -> None:
    """Every step makes a value that some later steps read; each has a workspace too."""
    storage = StoragePlan()
    count = len(dag.times_us)
    for step in range(count):
        storage.declare(step, data.draw(st.sampled_from([64, 64, 128, 200])))
        storage.written(step, step)
        for early in dag.before[step]:
            storage.read(early, step)
    for step in range(count):
        for early in sorted(dag.before[step]):
            if storage.overwrite(step, early, step):
                break
    numbers = {step: step for step in range(count)}
    accesses = storage.accesses(numbers)
    before = dependencies(list(accesses.values()), count)
    schedule = make_schedule(before, dag.times_us, dag.streams)
    workspaces = [data.draw(st.sampled_from([0, 100])) for _ in range(count)]
    done = storage.finish_scheduled(workspaces, schedule, numbers)
    ends_before = reachable(schedule)
    spans = [
        (done.storage[root].offset_bytes, storage.values[root].size_bytes,
         [access.step for access in rows])
        for root, rows in accesses.items() if rows
    ]
    spans += [(done.workspace_offsets[i], size, [i]) for i, size in enumerate(workspaces) if size]
    for index, (start, size, steps) in enumerate(spans):
        assert start + size <= done.arena_bytes
        for other_start, other_size, other_steps in spans[:index]:
            if start + size <= other_start or other_start + other_size <= start:
                continue
            forth = all(ends_before[i, j] for i in steps for j in other_steps)
            back = all(ends_before[i, j] for i in other_steps for j in steps)
            assert forth or back


def test_steps_that_write_the_same_bytes_wait_for_each_other() -> None:
    whole, left, right = Piece(0, 64), Piece(0, 32, 8, 16), Piece(8, 32, 8, 16)
    rows = [Access(0, left, True), Access(1, right, True), Access(2, whole, False)]
    assert dependencies([rows], 3) == [set(), set(), {0, 1}]
    rows = [Access(0, whole, False), Access(1, left, True), Access(2, left, True)]
    assert dependencies([rows], 3) == [set(), {0}, {0, 1}]


@pytest.mark.parametrize(("times_us", "is_worth"), [([20.0] * 4, True), ([1.0] * 4, False)])
def test_short_steps_are_not_worth_waiting_for(times_us: list[float], is_worth: bool) -> None:
    diamond = [set(), {0}, {0}, {1, 2}]
    assert (worth_streams(diamond, times_us, 2) is not None) == is_worth
    assert worth_streams(diamond, times_us, 1) is None


def test_blocks_of_two_branches_do_not_share_bytes() -> None:
    """Steps 1 and 2 run side by side: one after the other, their blocks would share bytes."""
    schedule = make_schedule([set(), {0}, {0}], [1.0, 50.0, 50.0], 2)
    assert schedule.streams[1] != schedule.streams[2]
    blocks = [
        Block(64, step, step, schedule.begin([step]), schedule.end([step])) for step in (1, 2)
    ]
    assert plan_memory(blocks)[1] == 128
    assert plan_memory([Block(64, 1, 1), Block(64, 2, 2)])[1] == 64
