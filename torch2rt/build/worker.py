"""A process that runs jobs, started by the worker pool.

Jobs arrive pickled on standard input, answers leave on standard output: both as messages of a
length and so many bytes. It ends when its input does. Whatever a compiler prints goes to stderr.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
from collections.abc import Callable
from functools import partial
from typing import IO

from torch2rt.backends.tactic import Job, Unprepared

_LENGTH = struct.Struct("<Q")


def send(file: IO[bytes], message: bytes) -> None:
    """Write one message."""
    file.write(_LENGTH.pack(len(message)) + message)
    file.flush()


def receive(file: IO[bytes]) -> bytes | None:
    """The next message; None when the other side is gone."""
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    message = file.read(length)
    return message if len(message) == length else None


def answer(load: Callable[[], Job]) -> tuple[bytes | None, str, bool]:
    """What a job yields: its bytes, or None and why; last, whether it broke down."""
    try:
        return bytes(load().run()), "", False
    except Unprepared as error:
        return None, str(error), False
    except Exception as error:  # whatever it is, it is told to the process that asked
        return None, f"{type(error).__name__}: {error}", True


def main() -> None:
    """Run jobs until there are no more."""
    source = sys.stdin.buffer
    target = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    while (message := receive(source)) is not None:
        send(target, pickle.dumps(answer(partial(pickle.loads, message))))

