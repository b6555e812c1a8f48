"""One process at a time measures on a GPU: a lock file in the system's temporary folder."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def device_lock(identity: str) -> Iterator[None]:
    """Hold the lock of the GPU with this identity; waits while another process holds it.

    The lock is advisory and ends with the process. Where the file cannot be opened, as when another
    user has made it, nothing is locked: measured times may then be disturbed, results are not.
    """
    path = Path(tempfile.gettempdir()) / f"torch2rt-gpu-{identity}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
