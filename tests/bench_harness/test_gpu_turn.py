"""Turns on a GPU, on one that is made up: its work takes a known time."""

import pytest

from torch2rt.bench import gpu_turn
from torch2rt.bench.gpu_turn import LATENCY_SHARE, MIN_GROUPS, run_gpu_turn


class Clock:
    """The host's time: a microsecond passes whenever somebody looks."""

    def __init__(self):
        self.now_s = 0.0

    def perf_counter(self):
        self.now_s += 1e-6
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    """One that no other process can slow down."""
    clock = Clock()
    monkeypatch.setattr(gpu_turn, "time", clock)
    return clock


class FakeGpu:
    """Runs calls of ``work_s`` one after the other, while the host goes on."""

    def __init__(self, work_s, clock):
        self.work_s = work_s
        self.clock = clock
        self.free_at = 0.0
        self.calls = 0
        self.waits = 0

    def call(self):
        self.calls += 1
        self.free_at = max(self.free_at, self.clock.perf_counter()) + self.work_s

    def synchronize(self):
        self.waits += 1
        self.clock.now_s = max(self.clock.now_s, self.free_at)

    def Event(self, enable_timing):
        assert enable_timing
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, gpu):
        self.gpu = gpu

    def record(self):
        self.at = max(self.gpu.free_at, self.gpu.clock.perf_counter())

    def elapsed_time(self, later):
        return (later.at - self.at) * 1e3


@pytest.mark.parametrize("work_s", [50e-6, 4e-3])
def test_busy_time_is_that_of_the_work_and_latency_is_not_less(work_s, clock):
    gpu = FakeGpu(work_s, clock)
    turn = run_gpu_turn(gpu.call, 0.1, 3, 0.02, gpu)
    assert turn.busy_ms == pytest.approx(work_s * 1e3, rel=0.2)
    assert turn.latency_ms >= turn.busy_ms * 0.95
    assert turn.calls <= gpu.calls
    assert turn.calls * work_s > 0.05


def test_calls_between_events_are_not_waited_for(clock):
    gpu = FakeGpu(1e-3, clock)
    run_gpu_turn(gpu.call, 0.1, 3, 0.0, gpu)
    assert gpu.waits <= 0.1 * LATENCY_SHARE / 1e-3 + MIN_GROUPS + 5


def test_a_long_call_is_still_made_a_few_times(clock):
    gpu = FakeGpu(0.02, clock)
    turn = run_gpu_turn(gpu.call, 0.001, 8, 0.0, gpu)
    assert turn.calls >= 8 + MIN_GROUPS
