"""The process of one contender: builds it, checks it, and runs turns when told to.

Started by `process.WorkerProcess`; orders come and answers go over one inherited pipe, so that
what libraries print disturbs nothing.
"""

from __future__ import annotations

import gc
import statistics
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from torch2rt.bench.contenders import Contender, load_contender
from torch2rt.bench.contenders.adapter import cast_loaded
from torch2rt.bench.contenders.base import BuildRequest
from torch2rt.bench.errors import BenchModelError
from torch2rt.bench.gpu_turn import run_gpu_turn
from torch2rt.bench.machine import library_version
from torch2rt.bench.priority import realtime_turn
from torch2rt.bench.protocol import (
    Build,
    Built,
    MakeReference,
    Message,
    ReferenceMade,
    Refused,
    Turn,
    TurnDone,
    receive,
    send,
)
from torch2rt.bench.result import FAILED, NO_MODEL
from torch2rt.bench.values import Array, flat_arrays, relative_error
from torch2rt.inspect.verify import exact_float32

# A single call shorter than this is timed in groups: reading the clock costs about 0.1 us.
SHORTEST_SAMPLE_S = 100e-6
# Calls on a GPU before the one whose result is checked: CUDA graphs are recorded in them.
GPU_WARM_UP_CALLS = 3


def main(descriptor: int) -> None:
    """Serve orders from the pipe with this file descriptor until it closes."""
    connection = Connection(descriptor)
    order = receive(connection)
    try:
        if isinstance(order, MakeReference):
            send(connection, make_reference(order))
        elif isinstance(order, Build):
            _serve(connection, order)
    except BenchModelError as error:
        send(connection, Refused(NO_MODEL, str(error.facts["reason"])))
    # A contender may raise anything at all; its row says what, and the other rows go on.
    except Exception as error:
        traceback.print_exc()
        send(connection, Refused(FAILED, _one_line(error)))


def _serve(connection: Connection, order: Build) -> None:
    contender = load_contender(order.contender)
    call, built = build(contender, order)
    send(connection, built)
    with contender.context():
        _serve_turns(connection, call, order.device.startswith("cuda"))


def _serve_turns(connection: Connection, call: Callable[[], object], is_on_gpu: bool) -> None:
    gc.collect()
    gc.freeze()
    cpu_s = time.process_time()
    while isinstance(order := receive(connection), Turn):
        idle_cpu_s = time.process_time() - cpu_s
        with realtime_turn(order.realtime):
            take = take_gpu_turn if is_on_gpu else run_turn
            done = take(call, order, idle_cpu_s)
        send(connection, done)
        cpu_s = time.process_time()


def build(contender: Contender, order: Build) -> tuple[Callable[[], object], Built]:
    """Build, make the first call, and compare its outputs with the reference."""
    torch.set_num_threads(order.threads)
    loaded = order.source.load()
    request = BuildRequest(
        loaded, order.variant, order.precision, order.device, order.threads, Path(order.folder),
        Path(order.timing_cache) if order.timing_cache else None, order.tune_budget_s,
    )
    started = time.perf_counter()
    quiet = order.realtime and contender.times_while_building
    with contender.context(), realtime_turn(quiet):
        call = contender.build(request)
        arrays = flat_arrays(call())
        build_s = time.perf_counter() - started
        if request.is_on_gpu:
            for _ in range(GPU_WARM_UP_CALLS):
                call()
            arrays = flat_arrays(call())
    error = relative_error(arrays, read_reference(Path(order.reference)))
    version = library_version(contender.packages[0]) if contender.packages else ""
    return call, Built(version, build_s, error)


def make_reference(order: MakeReference) -> Message:
    """Run the model in eager and write its outputs."""
    torch.set_num_threads(order.threads)
    loaded = order.source.load()
    batch = loaded.batch
    dtype = torch.float64 if order.use_float64 else torch.float32
    loaded = cast_loaded(loaded, dtype, order.device)
    with torch.inference_mode(), exact_float32():
        outputs = loaded.model(*loaded.args, **loaded.kwargs)
    np.savez(order.path, *flat_arrays(outputs))
    return ReferenceMade(batch)


def read_reference(path: Path) -> list[Array]:
    """The arrays `make_reference` wrote, in order."""
    with np.load(path) as arrays:
        return [arrays[f"arr_{index}"] for index in range(len(arrays.files))]


def run_turn(call: Callable[[], object], order: Turn, idle_cpu_s: float) -> TurnDone:
    """Warm up for ``order.warm_s``, then time calls; the median is per call, in milliseconds."""
    gc.disable()
    cpu_started = time.process_time()
    group = warm_up(call, order.warm_s)
    samples: list[float] = []
    deadline = time.perf_counter() + order.seconds
    while time.perf_counter() < deadline or len(samples) * group < order.min_calls:
        started = time.perf_counter()
        for _ in range(group):
            call()
        samples.append((time.perf_counter() - started) / group)
    cpu_s = time.process_time() - cpu_started
    gc.enable()
    return TurnDone(statistics.median(samples) * 1e3, len(samples) * group, cpu_s, idle_cpu_s)


def take_gpu_turn(call: Callable[[], object], order: Turn, idle_cpu_s: float) -> TurnDone:
    """The same on a GPU, by CUDA events."""
    gc.disable()
    cpu_started = time.process_time()
    turn = run_gpu_turn(call, order.seconds, order.min_calls, order.warm_s)
    cpu_s = time.process_time() - cpu_started
    gc.enable()
    return TurnDone(turn.busy_ms, turn.calls, cpu_s, idle_cpu_s, turn.latency_ms)


def warm_up(call: Callable[[], object], warm_s: float) -> int:
    """Call until ``warm_s`` has passed; how many calls make a sample long enough to time."""
    quickest = float("inf")
    deadline = time.perf_counter() + warm_s
    while True:
        started = time.perf_counter()
        call()
        now = time.perf_counter()
        quickest = min(quickest, now - started)
        if now >= deadline:
            return max(1, round(SHORTEST_SAMPLE_S / max(quickest, 1e-9)))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:300].rstrip(".")
    return f"{type(error).__name__}: {text}"
