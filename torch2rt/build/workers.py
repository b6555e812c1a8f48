"""Runs jobs in worker processes, each of which loses no more than the job that kills it.

Workers are programs of their own. `multiprocessing` would import the user's script again in each
of them, and a script without ``if __name__ == "__main__"`` would start over.
"""

from __future__ import annotations

import math
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from torch2rt.backends.tactic import Job
from torch2rt.build.worker import answer, receive, send

# A job that takes longer is given up.
LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The bytes of a job, or None and the reason.

    ``is_broken``: it ended otherwise than a job should. ``is_lost``: its worker died of it.
    """

    blob: bytes | None
    reason: str = ""
    is_broken: bool = False
    is_lost: bool = False


class WorkerPool:
    """Up to ``count`` processes, started when there is work and kept until `close`.

    With a ``count`` of 0 or 1 jobs run in this process.
    """

    def __init__(self, count: int, *, limit_s: float = LIMIT_S) -> None:
        self.count = count
        self.limit_s = limit_s
        self._idle: list[_Worker] = []

    def run(
        self, jobs: Mapping[str, Job],
        on_answer: Callable[[str, Answer], object] | None = None,
        deadline: float = math.inf, at_once: int | None = None,
    ) -> dict[str, Answer]:
        """Every job's answer by its key. ``on_answer`` is called here as they come in.

        ``at_once`` says how many processes may work, if fewer than all.

        A job whose worker dies is tried once more when no other runs: memory may have been short.
        No job is begun after ``deadline``, a time of `time.monotonic`; such jobs have no answer.
        """
        tell = on_answer or (lambda key, result: None)
        if self.count <= 1:
            answers = {}
            for key, job in jobs.items():
                if time.monotonic() >= deadline:
                    break
                answers[key] = Answer(*answer(lambda job=job: job))  # type: ignore[misc]
                tell(key, answers[key])
            return answers
        answers = self._run(jobs, min(self.count, at_once or self.count), tell, deadline)
        for key in [key for key, result in answers.items() if result.is_lost]:
            answers |= self._run({key: jobs[key]}, 1, tell, math.inf, is_last_try=True)
        return answers

    def _run(
        self, jobs: Mapping[str, Job], count: int, tell: Callable[[str, Answer], object],
        deadline: float, is_last_try: bool = False,
    ) -> dict[str, Answer]:
        todo: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[str, Answer] | None] = queue.SimpleQueue()
        for key, job in jobs.items():
            todo.put((key, pickle.dumps(job)))
        threads = [
            threading.Thread(target=self._feed, args=(todo, done, deadline), daemon=True)
            for _ in range(min(count, len(jobs)))
        ]
        for thread in threads:
            thread.start()
        answers: dict[str, Answer] = {}
        working = len(threads)
        while working:
            found = done.get()
            if found is None:
                working -= 1
                continue
            key, result = found
            answers[key] = result
            if is_last_try or not result.is_lost:
                tell(key, result)
        for thread in threads:
            thread.join()
        return answers

    def _feed(
        self, todo: queue.SimpleQueue[tuple[str, bytes]],
        done: queue.SimpleQueue[tuple[str, Answer] | None], deadline: float,
    ) -> None:
        """Give jobs to one worker, and to a new one when it dies, until there are no more.

        At the end it tells so, by None.
        """
        worker: _Worker | None = None
        while time.monotonic() < deadline:
            try:
                key, message = todo.get_nowait()
            except queue.Empty:
                break
            try:
                worker = worker or self._worker()
                result = worker.run(message, self.limit_s)
            except OSError as error:
                result = Answer(None, f"no worker process can be used ({error})", True, True)
            if worker is not None and not worker.is_alive:
                worker = None
            done.put((key, result))
        if worker is not None:
            self._idle.append(worker)
        done.put(None)

    def _worker(self) -> _Worker:
        try:
            return self._idle.pop()
        except IndexError:
            return _Worker()

    def close(self) -> None:
        """Let the processes end, and wait for them."""
        for worker in self._idle:
            worker.close()
        self._idle.clear()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Worker:
    """One worker process. It imports what this process would."""

    def __init__(self) -> None:
        path = [os.path.abspath(entry) for entry in sys.path]
        program = (
            f"import sys; sys.path[:] = {path!r}; "
            "from torch2rt.build.worker import main; main()"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout

    def run(self, message: bytes, limit_s: float) -> Answer:
        """The answer to a pickled job. `is_alive` tells whether the worker outlived it."""
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            self._process.kill()

        timer = threading.Timer(limit_s, give_up)
        timer.start()
        try:
            send(self._input, message)
            reply = receive(self._output)
        except BrokenPipeError:
            reply = None
        finally:
            timer.cancel()
        if reply is None:
            self.close()
            status = self._process.returncode
            if is_late.is_set():
                return Answer(None, f"it took longer than {limit_s:g} s", True)
            return Answer(None, f"its worker process ended with status {status}", True, True)
        return Answer(*pickle.loads(reply))

    def close(self) -> None:
        """Let it end, and wait for it."""
        with suppress(OSError):
            self._input.close()
        self._output.close()
        self._process.wait()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None
