"""A worker seen from the parent: start it, ask it, end it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path

from torch2rt.bench.errors import WorkerDiedError, WorkerTimeoutError
from torch2rt.bench.protocol import Close, Message, receive, send

# The worker gets the parent's import path: factories may live in folders only the parent knows.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from torch2rt.bench.worker import main; main(int(sys.argv[2]))"
)
_LOG_TAIL = 300
_CLOSE_GRACE_S = 5.0


class WorkerProcess:
    """One child process with its own thread pools, its own scratch folder and its own log.

    The thread count is also set in its environment, for the libraries that read it there, and
    Inductor's cache lies in the scratch folder, so that build times are cold ones.
    """

    def __init__(self, label: str, folder: Path, threads: int) -> None:
        self.label = label
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log.txt"
        self._connection, theirs = Pipe()
        settings = [
            f"OMP_NUM_THREADS={threads}",
            f"MKL_NUM_THREADS={threads}",
            f"OPENBLAS_NUM_THREADS={threads}",
            f"TORCHINDUCTOR_CACHE_DIR={folder / 'inductor'}",
        ]
        descriptor = theirs.fileno()
        boot = [sys.executable, "-c", _BOOT, json.dumps(sys.path), str(descriptor)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["env", *settings, *boot],
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        theirs.close()

    def ask(self, order: Message, timeout_s: float) -> Message:
        """Send an order and return the answer.

        Raises:
            WorkerDiedError: the process ended without answering.
            WorkerTimeoutError: no answer came in time; the process has been ended.
        """
        try:
            send(self._connection, order)
            if self._connection.poll(timeout_s):
                return receive(self._connection)
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self.close()
            raise WorkerDiedError(
                label=self.label, status=self._status(), log=self.last_words()
            ) from error
        self._connection.close()
        self._kill()
        raise WorkerTimeoutError(label=self.label, seconds=timeout_s, log=self.last_words())

    def close(self) -> None:
        """End the process and whatever it started. Safe to call again."""
        if self._connection.closed:
            return
        with contextlib.suppress(OSError):
            send(self._connection, Close())
        self._connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_GRACE_S)
        self._kill()

    def last_words(self) -> str:
        """The end of what the worker printed, on one line."""
        text = self._log.read_text(errors="replace")
        return " ".join(text.split())[-_LOG_TAIL:] or "(it printed nothing)"

    def _kill(self) -> None:
        # The worker leads a process group of its own: compilers it started end with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _status(self) -> str:
        code = self._process.returncode
        if code == -signal.SIGKILL:
            return "signal 9 (killed, perhaps for lack of memory)"
        return f"signal {-code}" if code < 0 else f"exit status {code}"
