"""Build, run and time candidates fairly: in turns, with weights cold as in a whole network.

Noise on a shared machine only ever adds time, so a candidate's time is the least over rounds of
the median of one burst. Spinning OpenMP threads suffer badly from being descheduled: run the
sweeps as `chrt -f 5 python ...` where that is allowed.
"""

import mmap
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.onednn import Arg, DataType

HUGE_PAGE = 2 << 20
COLD_BYTES = 64 << 20
MOST_COPIES = 64
BURST_S = 0.006
ROUNDS = 3
CHAIN_ROUNDS = 12
CHAIN_RUNS = 7


class Arena:
    """A large block that memories are cut from; `huge` asks for transparent huge pages."""

    def __init__(self, size: int, huge: bool = False) -> None:
        # Private: the default is shared memory, which never gets huge pages.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._map = mmap.mmap(-1, size + HUGE_PAGE, flags=flags)
        self._map.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
        block = np.frombuffer(self._map, np.uint8)
        start = -block.ctypes.data % HUGE_PAGE
        self.block = block[start : start + size]
        self.used = 0

    def reset(self) -> None:
        """Give everything back; earlier memories must no longer be used."""
        self.used = 0

    def take(self, size: int) -> int:
        """Set a place of `size` bytes aside; where it starts."""
        start = self.used
        self.used += -(-size // 64) * 64
        return start

    def memory(self, desc: onednn.MemoryDesc, at: int | None = None) -> onednn.Memory:
        """Memory for `desc`, filled with small values; `at` shares a fixed place instead."""
        size = desc.size_bytes
        start = self.take(size) if at is None else at
        if start + size > self.block.size:
            raise MemoryError(f"the sweep's arena of {self.block.size} bytes is too small")
        place = self.block[start : start + size]
        fill(place, desc.data_type)
        return onednn.Memory.of_array(desc, place)


def fill(place: np.ndarray, data_type: DataType) -> None:
    """Values of ordinary size: zeros and denormals would change what is timed."""
    values = place.view(data_type.numpy_dtype)
    if data_type == DataType.f32:
        values[:] = 0.01
    elif data_type == DataType.bf16:
        values[:] = np.float32(0.01).view(np.uint32) >> 16
    else:
        values[:] = 1


@dataclass
class Candidate:
    """One way to run one layer, and what it took (microseconds)."""

    variant: str
    layout: str
    desc: onednn.PrimitiveDesc
    cold_us: float = float("inf")
    hot_us: float = float("inf")
    calls: list[onednn.BoundCall] = field(default_factory=list)

    @property
    def implementation(self) -> str:
        """oneDNN's name of it."""
        return self.desc.implementation

    @property
    def key(self) -> str:
        """What identifies it among the candidates of a layer."""
        return f"{self.variant} {self.layout} {self.implementation}"


def bind_all(
    desc: onednn.PrimitiveDesc,
    primitive: onednn.Primitive,
    stream: onednn.Stream,
    arena: Arena,
) -> list[onednn.BoundCall]:
    """One call per copy of the weights, so many that they cannot all stay in cache."""
    shared = argument_memories(desc, arena)
    weights = desc.weights
    copies = min(MOST_COPIES, -(-COLD_BYTES // max(weights.size_bytes, 1)))
    calls = []
    for _ in range(copies):
        memories = shared | {int(Arg.weights): arena.memory(weights)}
        calls.append(onednn.bind(primitive, stream, memories))
    return calls


def argument_memories(desc: onednn.PrimitiveDesc, arena: Arena) -> dict[int, onednn.Memory]:
    """Memories of everything but the weights."""
    args = [Arg.src, Arg.dst, Arg.bias, Arg.scratchpad]
    args += [onednn.post_op_arg(i) for i in range(len(desc.recipe.attributes.post_ops))]
    args += [onednn.depthwise_arg(Arg.weights), onednn.depthwise_arg(Arg.bias)]
    found = ((arg, desc.arg_desc(arg)) for arg in args)
    return {int(arg): arena.memory(wanted) for arg, wanted in found if wanted is not None}


def burst_us(calls: list[onednn.BoundCall]) -> float:
    """Median time of one call, over a few milliseconds."""
    times = []
    end = time.perf_counter() + BURST_S
    while len(times) < 3 or time.perf_counter() < end:
        for function, arguments in calls:
            start = time.perf_counter()
            status = function(*arguments)
            times.append(time.perf_counter() - start)
            if status:
                raise RuntimeError(f"status {status} while timing")
            if len(times) >= 3 and time.perf_counter() > end:
                break
    return 1e6 * sorted(times)[len(times) // 2]


def time_candidates(candidates: Iterable[Candidate], arena: Arena, stream: onednn.Stream) -> None:
    """Fill in `cold_us` and `hot_us`; candidates 3 times behind the best get one burst only."""
    best = float("inf")
    for candidate in candidates:
        arena.reset()
        primitive = onednn.Primitive(candidate.desc)
        calls = bind_all(candidate.desc, primitive, stream, arena)
        burst_us(calls)
        candidate.cold_us = burst_us(calls)
        candidate.hot_us = burst_us(calls[:1])
        if candidate.cold_us < 3 * best:
            for _ in range(ROUNDS - 1):
                candidate.cold_us = min(candidate.cold_us, burst_us(calls))
                candidate.hot_us = min(candidate.hot_us, burst_us(calls[:1]))
        best = min(best, candidate.cold_us)


def time_chains(chains: dict[str, list[onednn.BoundCall]]) -> dict[str, float]:
    """Microseconds per run of each chain, in turns."""
    taken = dict.fromkeys(chains, float("inf"))
    for calls in chains.values():
        _run_us(calls)
    for _ in range(CHAIN_ROUNDS):
        for name, calls in chains.items():
            times = sorted(_run_us(calls) for _ in range(CHAIN_RUNS))
            taken[name] = min(taken[name], times[CHAIN_RUNS // 2])
    return taken


def _run_us(calls: list[onednn.BoundCall]) -> float:
    start = time.perf_counter()
    for function, arguments in calls:
        if function(*arguments):
            raise RuntimeError("a step failed while timing a chain")
    return 1e6 * (time.perf_counter() - start)


def machine_line(threads: int) -> str:
    """A CSV comment line: what ran, and how the times are to be read."""
    version = ".".join(map(str, onednn.version()))
    return (
        f"# {processor()}, {threads} threads, oneDNN {version}, {onednn.effective_isa()}, "
        f"{time.strftime('%Y-%m-%d')}; times are the least over rounds of a burst's median\n"
    )


def processor() -> str:
    """The CPU's own name, where Linux tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
