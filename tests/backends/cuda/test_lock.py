"""The lock under which a GPU is measured."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from torch2rt.backends.cuda.lock import device_lock


def hold(folder: str, held: Event, release: Event) -> None:
    tempfile.tempdir = folder
    with device_lock("a"):
        held.set()
        release.wait(20)


def test_another_process_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(str(tmp_path), held, release))
    process.start()
    try:
        assert held.wait(20)
        with device_lock("b"):
            pass  # another GPU is free
        started = time.perf_counter()
        context.Process(target=_release_later, args=(release,)).start()
        with device_lock("a"):
            assert release.is_set()
            assert time.perf_counter() - started > 0.1
    finally:
        release.set()
        process.join(20)


def _release_later(release: Event) -> None:
    time.sleep(0.3)
    release.set()


def test_a_lock_can_be_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for _ in range(2):
        with device_lock("a"):
            pass
    with device_lock("a"), device_lock("a"):
        pass  # also while it is held here
    with pytest.raises(KeyError), device_lock("a"):
        raise KeyError
    with device_lock("a"):
        pass


def test_without_a_file_nothing_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    is_entered = False
    with device_lock("a"):
        is_entered = True
    assert is_entered
    assert not list(tmp_path.iterdir())
