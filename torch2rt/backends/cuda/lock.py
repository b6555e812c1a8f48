"""One process at a time measures on a GPU: a lock file in the system's temporary folder."""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Threads of this process that measure on any GPU take turns; one may take the lock again.
_turn = threading.RLock()
_held: set[str] = set()


@contextmanager
def device_lock(identity: str) -> Iterator[None]:
    """Hold the lock of the GPU with this identity; waits while another process holds it.

    The lock is advisory and ends with the process. Where the file cannot be opened, as when another
    user has made it, nothing is locked: measured times may then be disturbed, results are not.
    """
    with _turn:
        if identity in _held:
            yield
            return
        path = Path(tempfile.gettempdir()) / f"torch2rt-gpu-{identity}.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            yield
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            _held.add(identity)
            yield
        finally:
            _held.discard(identity)
            os.close(descriptor)
