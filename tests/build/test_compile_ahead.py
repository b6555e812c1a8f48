"""Compiling ahead: what is missing is found, made in other processes, and kept on disk."""

import os
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from torch2rt.backends.tactic import Prepared, QuickJob, Tactic, Unprepared, Weights
from torch2rt.build.blob_cache import BlobCache
from torch2rt.build.compile_ahead import CompileAhead
from torch2rt.build.workers import WorkerPool

BACKEND = SimpleNamespace(building=nullcontext)


@dataclass(frozen=True)
class Work:
    """A job that does what its text says. ``folder`` counts the times it ran."""

    text: str
    folder: Path

    def run(self) -> bytes:
        (self.folder / f"{self.text} {time.monotonic_ns()}").touch()
        if self.text == "refuse":
            raise Unprepared("it will not")
        if self.text == "fail":
            raise KeyError("lost")
        if self.text == "die":
            os._exit(7)
        if self.text == "hang":
            time.sleep(60)
        if self.text.startswith("nap"):
            time.sleep(0.6)
        if self.text == "talk":
            print("noise on standard output")
        return self.text.encode() + b" by %d" % os.getpid()


class QuickWork(Work, QuickJob):
    """What is not worth another process."""


class Source(Weights):
    def array(self, name):
        raise KeyError(name)

    def packed(self, key, make):
        return make()


class Needs(Tactic):
    """Prepared from blobs, each needed when the one before is there."""

    name = "some.tactic.name"
    kinds = ("*",)

    def __init__(
        self, folder: Path, *texts: str, looks: bool = False, work: type[Work] = Work
    ) -> None:
        self.folder, self.texts, self.looks, self.work = folder, texts, looks, work

    def supports(self, spec):
        return None

    def prepare(self, spec, weights):
        packed = weights.packed(("weights",), lambda: SimpleNamespace(address=1))
        if self.looks:
            assert packed.address == 1
        for text in self.texts:
            weights.blob(text, self.work(text, self.folder))
        return SimpleNamespace(spec=Prepared)


def runs(folder: Path, text: str) -> int:
    return sum(path.name.split()[0] == text for path in folder.iterdir())


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Workers import this file, as they import the files of tactics."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture(params=[1, 2], ids=["inline", "two workers"])
def ahead(request, tmp_path):
    with WorkerPool(request.param) as workers:
        yield CompileAhead(BACKEND, Source(), BlobCache(tmp_path / "blobs", "v1"), workers)


def test_every_blob_is_made_once_before_it_is_needed(ahead, folder):
    told = []
    ahead.on_compiled = lambda done, known: told.append((done, known))
    tactics = [Needs(folder, "a"), Needs(folder, "a", "b", looks=True), Needs(folder, "talk", "c")]
    ahead.run((tactic, None) for tactic in tactics)
    assert [runs(folder, text) for text in ("a", "b", "c", "talk")] == [1, 1, 1, 1]
    assert all(ahead.blobs.knows(text) for text in ("a", "b", "c", "talk"))
    assert sorted(told) == [(1, 2), (2, 2), (3, 4), (4, 4)]
    ahead.run((tactic, None) for tactic in tactics)
    assert len(list(folder.iterdir())) == 4


def test_quick_jobs_stay_in_this_process(folder):
    here = str(os.getpid())
    with WorkerPool(2) as workers:
        ahead = CompileAhead(BACKEND, Source(), BlobCache(), workers)
        ahead.run([
            (Needs(folder, "a", work=QuickWork), None), (Needs(folder, "b"), None),
            (Needs(folder, "refuse", "c", work=QuickWork), None),
        ])
        assert ahead.blobs.get("a").decode().endswith(here)
        assert not ahead.blobs.get("b").decode().endswith(here)
        with pytest.raises(Unprepared, match="it will not"):
            ahead.blobs.fetch("refuse", Work("refuse", folder))
        assert (runs(folder, "refuse"), ahead.done, ahead.known) == (1, 3, 3)


def test_no_more_processes_work_than_are_asked_for(folder):
    jobs = {str(number): Work(f"w{number}", folder) for number in range(3)}
    with WorkerPool(3) as workers:
        answers = workers.run(jobs, at_once=1)
        assert len({answer.blob.split()[-1] for answer in answers.values()}) == 1


def test_another_build_finds_the_blobs_on_disk(ahead, folder):
    ahead.run([(Needs(folder, "a", "b"), None)])
    again = BlobCache(ahead.blobs.folder, "v1")
    assert again.fetch("a", Work("a", folder)) == ahead.blobs.get("a")
    assert BlobCache(ahead.blobs.folder, "v2").get("a") is None
    assert runs(folder, "a") == 1


@pytest.mark.parametrize(
    ("text", "reason"), [("refuse", "it will not"), ("fail", "KeyError: 'lost'")]
)
def test_a_job_that_fails_loses_only_its_candidate(ahead, folder, text, reason, caplog):
    ahead.run([(Needs(folder, text, "b"), None), (Needs(folder, "a"), None)])
    assert ahead.blobs.get("a") is not None
    assert not ahead.blobs.knows("b")
    with pytest.raises(Unprepared, match=reason):
        ahead.blobs.fetch(text, Work(text, folder))
    assert runs(folder, text) == 1
    assert ("cannot be made" in caplog.text) == (text == "fail")


@pytest.mark.parametrize(("text", "count"), [("refuse", 1), ("fail", 2)])
def test_refusals_are_kept_on_disk_and_breakdowns_are_not(ahead, folder, text, count):
    for _ in range(2):
        ahead.blobs = BlobCache(ahead.blobs.folder, "v1")
        ahead.run([(Needs(folder, text), None)])
        with pytest.raises(Unprepared):
            ahead.blobs.fetch(text, Work(text, folder))
    assert runs(folder, text) == count


def test_a_worker_that_dies_loses_only_its_job(folder, tmp_path):
    with WorkerPool(2) as workers:
        ahead = CompileAhead(BACKEND, Source(), BlobCache(), workers)
        ahead.run([(Needs(folder, text), None) for text in ("die", "a", "b", "c")])
        assert all(ahead.blobs.get(text) for text in "abc")
        with pytest.raises(Unprepared, match="ended with status 7"):
            ahead.blobs.fetch("die", Work("die", folder))
        assert (runs(folder, "die"), runs(folder, "a")) == (2, 1)
        ahead.run([(Needs(folder, "d"), None)])
        assert ahead.blobs.get("d") is not None


def test_a_job_that_hangs_is_given_up(folder):
    with WorkerPool(2, limit_s=3.0) as workers:
        answers = workers.run({"hang": Work("hang", folder)})
    assert answers["hang"].reason == "it took longer than 3 s"
    assert runs(folder, "hang") == 1


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_is_begun_after_the_deadline(folder, count):
    jobs = {text: Work(text, folder) for text in ("nap 1", "nap 2", "a", "b")}
    with WorkerPool(count) as workers:
        workers.run({str(number): Work("a", folder) for number in range(2)})  # they have started
        answers = workers.run(jobs, deadline=time.monotonic() + 0.3)
        assert set(answers) == {"nap 1", "nap 2"} if count == 2 else {"nap 1"}
        assert all(answer.blob for answer in answers.values())
        assert workers.run(jobs, deadline=0.0) == {}
        assert set(workers.run(jobs)) == set(jobs)


# ---- the cache ----------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"", b"short", b"torch2rt blob 1\n" + b"x" * 40, b"?" * 99])
def test_damaged_files_are_ignored_and_written_again(tmp_path, folder, damage):
    BlobCache(tmp_path, "v").put("a", b"blob")
    (path,) = (p for p in tmp_path.rglob("*") if p.is_file())
    path.write_bytes(damage)
    cache = BlobCache(tmp_path, "v")
    assert cache.get("a") is None
    cache.fetch("a", Work("a", folder))
    assert BlobCache(tmp_path, "v").get("a") == cache.get("a") is not None


def test_a_folder_that_cannot_be_written_to_is_a_warning(tmp_path, caplog):
    (tmp_path / "blobs").write_text("a file is in the way")
    cache = BlobCache(tmp_path / "blobs")
    cache.put("a", b"1")
    cache.put("b", b"2")
    assert (cache.get("a"), cache.get("b")) == (b"1", b"2")
    assert caplog.text.count("cannot be written to") == 1
