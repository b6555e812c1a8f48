"""The CUDA table in one short lease: everything is built side by side, then timed in turns.

Processes hold the contenders: one per row for torch2rt, one per row for each torch.compile mode,
and a few that hold eager and its CUDA graphs of several rows and compute the float64 references.
Nothing builds any more when turns are timed: what is late is given up, and its row says so.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cuda_models
import numpy as np
import torch
from cuda_entrants import (
    Entrant,
    Settings,
    build,
    contender_of,
    enter,
    load,
    run_in_float64,
    say,
    take_turn,
)

from torch2rt.bench.result import FAILED, OK, TIMEOUT, BenchRow
from torch2rt.bench.values import Array

# Cheap to build, and many of them fit in one process.
LIGHT = ("eager", "graph")
LIGHT_PROCESSES = 3
REFERENCE_WAIT_S = 150.0
TURN_LIMIT_S = 30.0
Row = tuple[str, int]


@dataclass(frozen=True)
class Task:
    """Contenders to build on one row, in this order; the reference too, if it is asked for."""

    model: str
    batch: int
    contenders: tuple[str, ...]
    makes_reference: bool = False


@dataclass(frozen=True)
class Job:
    """All that one process is to build. ``folder`` holds references and logs."""

    name: str
    tasks: tuple[Task, ...]
    settings: Settings
    folder: Path
    models_file: str | None = None
    niceness: int = 0


def work(connection: Connection, job: Job) -> None:
    """The process of a job: builds, tells, then takes turns until it is told to end."""
    os.nice(job.niceness)
    log = (job.folder / f"{job.name}.log").open("w", buffering=1)
    os.dup2(log.fileno(), sys.stdout.fileno())
    os.dup2(log.fileno(), sys.stderr.fileno())
    if job.models_file is not None:
        use_models(job.models_file)
    settings = job.settings
    torch.set_num_threads(settings.threads)
    if settings.compile_workers is not None and settings.device.startswith("cuda"):
        limit_compile_workers(settings.device, settings.compile_workers)
    entrants: dict[tuple[str, int, str], Entrant] = {}
    for task in job.tasks:
        _build_task(connection, job, task, entrants)
    connection.send(("done",))
    gc.collect()
    gc.freeze()
    gc.disable()
    while (order := connection.recv()) is not None:
        key, seconds = order
        connection.send(take_turn(entrants[key], seconds, settings.device))


def _build_task(
    connection: Connection, job: Job, task: Task, entrants: dict[tuple[str, int, str], Entrant]
) -> None:
    settings = job.settings
    loaded = load(task.model, task.batch)
    path = reference_path(job.folder, task.model, task.batch)
    if task.makes_reference:
        write_reference(path, run_in_float64(loaded, settings.device))
        if settings.device.startswith("cuda"):
            torch.cuda.empty_cache()  # others need it
    for name in task.contenders:
        (entrant,) = enter(name, task.model, task.batch, settings)
        lines = [f"{task.model} b{task.batch} {name}: {entrant.row.notes}"]
        if entrant.row.status == OK:
            lines = build(entrant, loaded, lambda: read_reference(path), settings)
        if entrant.call is not None:
            entrants[task.model, task.batch, name] = entrant
        connection.send(("built", entrant.row, entrant.call is not None, lines))


def limit_compile_workers(device: str, count: int) -> None:
    """So many compiling processes for this one: others compile beside it."""
    from torch2rt.backends.devices import open_backend

    open_backend(device).compile_workers = count


def use_models(file: str) -> None:
    """Take the models from the MODELS of another file."""
    from torch2rt.bench.source import import_object

    found: Any = import_object(f"{file}:MODELS")
    cuda_models.MODELS.update(found)


def reference_path(folder: Path, model: str, batch: int) -> Path:
    """Where the float64 outputs of a row are kept."""
    return folder / f"reference_{model}_{batch}.npz"


def write_reference(path: Path, arrays: Sequence[Array]) -> None:
    """Write outputs, whole or not at all."""
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, *arrays)
    partial.replace(path)


def read_reference(path: Path) -> list[Array]:
    """The outputs, once another process has written them."""
    deadline = time.monotonic() + REFERENCE_WAIT_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no reference after {REFERENCE_WAIT_S:g} s")
        time.sleep(0.05)
    with np.load(path) as arrays:
        return [arrays[f"arr_{index}"] for index in range(len(arrays.files))]


class Worker:
    """A process seen from the parent."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.is_built = False
        self.is_given_up = False
        self._connection, self._theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=work, args=(self._theirs, job), daemon=True, name=job.name
        )

    def build_all(self, board: Board) -> None:
        """Start it and note what it builds until it is done, or dies."""
        self._process.start()
        self._theirs.close()
        try:
            while (message := self._connection.recv())[0] != "done":
                _, row, is_ready, lines = message
                board.note(row, self if is_ready else None, lines)
            self.is_built = True
        except (EOFError, OSError):
            if not self.is_given_up:
                board.note_death(self, self.last_words())

    def turn(self, key: tuple[str, int, str], seconds: float) -> tuple[float, float] | None:
        """One turn; None when the process does not answer any more."""
        try:
            self._connection.send((key, seconds))
            if self._connection.poll(TURN_LIMIT_S):
                answer: tuple[float, float] = self._connection.recv()
                return answer
        except (EOFError, OSError):
            pass
        self.end()
        return None

    def end(self) -> None:
        """End the process, if it was ever started."""
        self.is_given_up = True
        if self._process.pid is not None and self._process.is_alive():
            self._process.kill()
            self._process.join(5)

    def last_words(self) -> str:
        """The end of what it printed, on one line."""
        path = self.job.folder / f"{self.job.name}.log"
        text = path.read_text(errors="replace") if path.exists() else ""
        return " ".join(text.split())[-250:] or "(it printed nothing)"


@dataclass
class Board:
    """What is known of every row and contender so far."""

    rows: dict[tuple[str, int, str], BenchRow] = field(default_factory=dict)
    workers: dict[tuple[str, int, str], Worker] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, row: BenchRow, worker: Worker | None, lines: Sequence[str]) -> None:
        """A contender is built, or not."""
        key = row.model, row.batch, row.contender
        with self.lock:
            self.rows[key] = row
            if worker is not None:
                self.workers[key] = worker
            for line in lines:
                say(line)

    def note_death(self, worker: Worker, words: str) -> None:
        """A process has ended: what it holds is lost."""
        with self.lock:
            say(f"{worker.job.name} ended: {words}")
            for key, holder in list(self.workers.items()):
                if holder is worker:
                    del self.workers[key]
                    self.rows[key] = replace(self.rows[key], status=FAILED, notes=words)

    def row(self, key: tuple[str, int, str], settings: Settings) -> BenchRow:
        """A row; one that says it is late where nothing is known."""
        late = key in self.workers and not self.workers[key].is_built
        if key in self.rows:
            row = self.rows[key]
            return replace(row, status=TIMEOUT, notes="others of its process were late") if (
                late
            ) else row
        model, batch, name = key
        is_peer = contender_of(name, settings)[0].is_peer
        return BenchRow(
            model, batch, settings.precision, name, is_peer, status=TIMEOUT,
            notes="not built by the deadline",
        )


def make_jobs(
    rows: Sequence[Row], contenders: Sequence[str], settings: Settings, folder: Path,
    models_file: str | None,
) -> list[Job]:
    """The processes, those that are needed first in front."""
    light = tuple(name for name in contenders if _kind(name) in LIGHT)
    count = min(LIGHT_PROCESSES, len(rows))
    jobs = [
        Job(
            f"light{index}",
            tuple(Task(model, batch, light, True) for model, batch in rows[index::count]),
            settings, folder, models_file,
        )
        for index in range(count)
    ]
    heavy = [name for name in contenders if _kind(name) not in LIGHT]
    for name in sorted(heavy, key=lambda name: _kind(name) != "torch2rt"):
        for model, batch in rows:
            niceness = 0 if _kind(name) == "torch2rt" else 5
            jobs.append(Job(
                f"{name}_{model}_{batch}", (Task(model, batch, (name,)),), settings, folder,
                models_file, niceness,
            ))
    return jobs


def _kind(name: str) -> str:
    """The contender without the precision that it is to have."""
    return name.partition("@")[0]


def build_in_parallel(
    jobs: Sequence[Job], at_once: int, until: float
) -> tuple[Board, list[Worker]]:
    """Build everything, ``at_once`` processes at a time, no longer than ``until`` (monotonic)."""
    board = Board()
    workers = [Worker(job) for job in jobs]
    waiting = list(reversed(workers))
    lock = threading.Lock()

    def drive() -> None:
        while time.monotonic() < until:
            with lock:
                if not waiting:
                    return
                worker = waiting.pop()
            worker.build_all(board)

    threads = [threading.Thread(target=drive, daemon=True) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    late = [worker for worker in workers if not worker.is_built]
    with lock:
        waiting.clear()
    for worker in late:
        worker.end()
    say(f"building is over: {len(workers) - len(late)} processes ready, {len(late)} given up")
    return board, workers


def time_row(
    board: Board, row: Row, contenders: Sequence[str], rounds: int, seconds: float
) -> dict[str, Entrant]:
    """Turns of all that are ready, one after the other, round by round; the first warms up."""
    entrants = {}
    for name in contenders:
        key = (*row, name)
        if key in board.workers and board.workers[key].is_built:
            contender, precision = contender_of(name, board.workers[key].job.settings)
            entrants[name] = Entrant(contender, board.rows[key], precision)
    for number in range(rounds + 1):
        for name in random.Random(number).sample(list(entrants), len(entrants)):
            worker = board.workers[*row, name]
            answer = worker.turn((*row, name), seconds / rounds)
            if answer is None:
                entrant = entrants.pop(name)
                board.rows[*row, name] = replace(
                    entrant.row, status=FAILED, notes=f"ended in a turn: {worker.last_words()}"
                )
            elif number:
                entrants[name].rounds_ms.append(answer[0])
                entrants[name].latencies_ms.append(answer[1])
    return entrants
