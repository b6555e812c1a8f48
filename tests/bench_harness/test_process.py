from pathlib import Path

import pytest
from fakes import Dying, Hanging, Single, linear, spec

from torch2rt.bench.errors import WorkerDiedError, WorkerTimeoutError
from torch2rt.bench.process import WorkerProcess
from torch2rt.bench.protocol import Build, MakeReference, Message, ReferenceMade
from torch2rt.bench.source import ModelSource

# Long: importing torch takes this on a machine with all else going on.
ANSWER_S = 250.0
SOURCE = ModelSource("factory", spec(linear))


def order(contender: type[Single], folder: Path) -> Message:
    reference = folder / "reference.npz"
    return Build(SOURCE, spec(contender), "only", "fp32", "cpu", 1, str(reference), str(folder))


def test_a_worker_answers(tmp_path: Path) -> None:
    worker = WorkerProcess("one", tmp_path, threads=1)
    path = tmp_path / "reference.npz"
    answer = worker.ask(MakeReference(SOURCE, str(path), 1, "cpu", use_float64=False), ANSWER_S)
    worker.close()
    worker.close()
    assert answer == ReferenceMade(2)
    assert path.exists()


def test_a_worker_that_dies_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    worker = WorkerProcess("dying one", tmp_path, threads=1)
    with pytest.raises(WorkerDiedError, match=r"dying one ended with exit status 7.*deceased"):
        worker.ask(order(Dying, tmp_path), ANSWER_S)


def test_a_worker_that_hangs_is_ended(tmp_path: Path) -> None:
    worker = WorkerProcess("hanging one", tmp_path, threads=1)
    with pytest.raises(WorkerTimeoutError, match=r"hanging one gave no answer within 0\.2 s"):
        worker.ask(order(Hanging, tmp_path), 0.2)
    assert worker._process.poll() is not None
