"""How many threads a CPU backend uses, and the OpenMP setting of the calling thread."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch2rt.backends.cpu import onednn


def available_threads() -> int:
    """Physical cores this process may run on; at least 1."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if allowed is None:
        return os.cpu_count() or 1
    return max(1, len({_core(cpu) for cpu in allowed}))


def _core(cpu: int) -> str:
    """A text that the hardware threads of one core share; the CPU's own number if unknown."""
    try:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        return topology.read_text().strip()
    except OSError:
        return str(cpu)


class ThreadCount:
    """Sets the OpenMP thread count of the calling thread for a while, then puts it back.

    torch shares the OpenMP run time, so a count left behind would change torch's too.
    """

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The count holds inside."""
        before = onednn.get_threads()
        onednn.set_threads(self.count)
        try:
            yield
        finally:
            onednn.set_threads(before)
