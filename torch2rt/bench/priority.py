"""Real-time priority for the length of a turn: a quiet machine within a busy one.

Raising a process's niceness is not enough on Linux: automatic groups share the processor evenly
between sessions whatever their niceness. Threads in the round-robin real-time class run before
all others, and the rest of the system keeps the 5 % that the kernel reserves for it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from torch2rt.errors import ConfigError


@contextlib.contextmanager
def realtime_turn(wanted: bool) -> Iterator[None]:
    """All threads of this process in the real-time class, back to the usual one after."""
    if not wanted:
        yield
        return
    _set_all(os.SCHED_RR, 1)
    try:
        yield
    finally:
        _set_all(os.SCHED_OTHER, 0)


def check_realtime() -> None:
    """Refuse real-time turns where they are not permitted.

    Raises:
        ConfigError: this process may not, or this system has no such thing.
    """
    remedy = "Run as root, grant CAP_SYS_NICE, or measure without it on a quiet machine."
    if not hasattr(os, "sched_setscheduler"):
        raise ConfigError(
            option="realtime", value=True, reason="this system has no such class", remedy=remedy
        )
    before, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        os.sched_setscheduler(0, before, parameter)
    except PermissionError as error:
        raise ConfigError(
            option="realtime", value=True, reason="it is not permitted here", remedy=remedy
        ) from error


def _set_all(policy: int, priority: int) -> None:
    for task in Path("/proc/self/task").iterdir():
        # A thread may end between being listed and being set.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setscheduler(int(task.name), policy, os.sched_param(priority))
