"""The CPU backend itself: timing, threads, errors."""

import math
import time

import pytest
from needs import needs_onednn

from torch2rt.backends.buffer import address_of
from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.backend import CpuBackend, cpu_model
from torch2rt.backends.cpu.threads import available_threads
from torch2rt.errors import DeviceError


def test_every_tactic_has_a_name_of_three_parts_with_its_kind_first():
    tactics = CpuBackend(1).tactics
    assert len(tactics) > 30
    for name, tactic in tactics.items():
        assert name.count(".") == 2
        assert name.split(".")[0] in (*tactic.kinds, "any")


def test_memory_is_aligned_and_zero():
    backend = CpuBackend(1)
    memory = backend.allocate(1000)
    assert address_of(memory) == backend.address(memory)
    assert backend.address(memory) % 64 == 0
    assert not memory.any()


@needs_onednn
def test_threads_hold_inside_and_are_put_back():
    backend = CpuBackend(2)
    onednn.set_threads(1)
    seen = []
    backend.runner([(lambda: seen.append(onednn.get_threads()), ())])()
    with backend.building():
        seen.append(onednn.get_threads())
    assert seen == [2, 2]
    assert onednn.get_threads() == 1
    onednn.set_threads(2)


def test_no_threads_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        CpuBackend(0)


def test_default_threads_are_cores():
    assert CpuBackend().threads == available_threads() >= 1


def test_timing_tells_fast_from_slow_and_failing():
    backend = CpuBackend(1)
    calls = [
        [(time.sleep, (0.002,))], [(time.sleep, (0.0001,))], [(lambda: 3, ())],
    ]
    slow, fast, failing = backend.time_calls_us(calls, budget_ms=40)
    assert 100 <= fast < slow
    assert slow >= 2000
    assert failing == math.inf
    assert backend.time_calls_us([], 1.0) == []


def test_a_status_other_than_zero_is_an_error():
    run = CpuBackend(1).runner([(lambda: None, ()), (lambda: 2, ())])
    with pytest.raises(DeviceError, match="call 1 of 2 ended with status 2"):
        run()


def test_fingerprint_names_what_times_depend_on():
    text = CpuBackend(2).fingerprint()
    assert cpu_model() in text
    assert "threads 2" in text
    assert CpuBackend(1).fingerprint() != text


def test_a_tactic_is_found_by_the_name_of_its_file():
    backend = CpuBackend(threads=1)
    for name, tactic in backend.tactics.items():
        assert type(backend.tactic(name)) is type(tactic)
    for name in ("no.such.tactic", "os.path", "../engine", "convolution.onednn.nope"):
        with pytest.raises(KeyError):
            backend.tactic(name)
