"""The timing cache as its users meet it: shared, edited, torn, unwritable."""

import json
import logging
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from torch2rt.build import timing_cache
from torch2rt.build.timing_cache import TimingCache
from torch2rt.errors import ConfigError

ROOT = Path(__file__).parents[2]


def line(layer: str, us: object, device: str = "d", tactic: str = "t") -> str:
    return json.dumps({"device": device, "tactic": tactic, "layer": layer, "us": us}) + "\n"


def saved(path: Path, *times: tuple[str, float]) -> TimingCache:
    cache = TimingCache(path)
    for layer, us in times:
        cache.put("d", "t", layer, us)
    cache.save()
    return cache


def test_times_come_back_in_another_cache(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "times"
    cache = TimingCache(path)
    assert cache.get("d", "t", "l") is None
    cache.put("d", "t", "l", 12.34567)
    cache.put("d", "t", "broken", math.inf)
    cache.put("d", "t", "unordered", math.nan)
    assert cache.get("d", "t", "l") == 12.346
    assert cache.get("d", "t", "broken") == cache.get("d", "t", "unordered") == math.inf
    assert not path.exists()
    cache.save()
    other = TimingCache(path)
    assert len(other) == 1
    assert other.get("d", "t", "l") == 12.346
    assert other.get("d", "t", "broken") is None
    assert other.get("d", "other", "l") is None
    assert all(json.loads(row)["device"] == "d" for row in path.read_text().splitlines())


def test_saving_appends_only_what_is_new(tmp_path: Path) -> None:
    cache = saved(tmp_path / "c", ("a", 1.0))
    cache.save()
    cache.put("d", "t", "b", 2.0)
    cache.save()
    assert (tmp_path / "c").read_text() == line("a", 1.0) + line("b", 2.0)


def test_the_last_line_counts_so_files_merge_with_cat(tmp_path: Path) -> None:
    (tmp_path / "c").write_text(line("a", 1) + line("b", 2) + line("a", 3))
    cache = TimingCache(tmp_path / "c")
    assert (cache.get("d", "t", "a"), cache.get("d", "t", "b")) == (3.0, 2.0)


def test_without_a_path_it_stays_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cache = TimingCache()
    cache.put("d", "t", "l", 1.0)
    cache.save()
    assert cache.get("d", "t", "l") == 1.0
    assert os.listdir(tmp_path) == []


def test_names_with_line_breaks_and_odd_characters(tmp_path: Path) -> None:
    names = ["a\nb", "\u2028", "\r\n", '"', "é 漢", "\x1c", "\ud800", ""]
    saved(tmp_path / "c", *((name, float(i)) for i, name in enumerate(names)))
    cache = TimingCache(tmp_path / "c")
    assert [cache.get("d", "t", name) for name in names] == [float(i) for i in range(len(names))]


@pytest.mark.parametrize(
    "bad",
    [
        "torn {", '{"device": "d", "tac', "[]", "5", "null", "{}", "[" * 100_000, "\0\xff",
        line("a", "fast"), line("a", -1), line("a", math.nan), line("a", math.inf), line("a", True),
        line("a", None), line("a", []), '{"device": 1, "tactic": "t", "layer": "l", "us": 1}',
        "9" * 5000,
    ],
)
def test_lines_that_are_no_times_are_skipped_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: str
) -> None:
    (tmp_path / "c").write_text(line("a", 1) + bad.rstrip() + "\n\n" + bad + "\n" + line("b", 2),
                                encoding="latin-1")
    cache = TimingCache(tmp_path / "c")
    assert (cache.get("d", "t", "a"), cache.get("d", "t", "b"), len(cache)) == (1.0, 2.0, 2)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "2 line(s) are not times and are skipped, the first being line 2" in record.message
    assert str(tmp_path / "c") in record.message
    assert len(record.message) < 500


def test_editors_marks_and_line_ends_are_no_matter(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "\ufeff" + line("a", 1) + "  \n" + line("b", 2)
    (tmp_path / "c").write_bytes(text.replace("\n", "\r\n").encode())
    assert len(TimingCache(tmp_path / "c")) == 2
    assert caplog.records == []


def test_a_line_cut_off_does_not_take_the_next_one_along(tmp_path: Path) -> None:
    saved(tmp_path / "c", ("a", 1.0))
    with (tmp_path / "c").open("a") as file:
        file.write('{"device": "d", "tactic"')
    saved(tmp_path / "c", ("b", 2.0))
    cache = TimingCache(tmp_path / "c")
    assert (cache.get("d", "t", "a"), cache.get("d", "t", "b")) == (1.0, 2.0)


def test_a_file_deleted_meanwhile_is_made_again(tmp_path: Path) -> None:
    cache = saved(tmp_path / "sub" / "c", ("a", 1.0))
    (tmp_path / "sub" / "c").unlink()
    (tmp_path / "sub").rmdir()
    cache.put("d", "t", "b", 2.0)
    cache.save()
    assert TimingCache(tmp_path / "sub" / "c").get("d", "t", "b") == 2.0


@pytest.mark.parametrize("name", [".", "file/c", "c\0c", "c" * 300])
def test_a_path_that_cannot_be_read_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"timing_cache=.*cannot be read.*Pass the path of"):
        TimingCache(tmp_path / name)


def test_a_path_that_cannot_be_written_is_a_warning_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocker = tmp_path / "sub"
    cache = TimingCache(blocker / "c")
    blocker.write_text("in the way")
    cache.put("d", "t", "a", 1.0)
    cache.save()
    (record,) = caplog.records
    assert "sub/c cannot be written" in record.message
    assert "1 measured times stay in memory" in record.message
    assert cache.get("d", "t", "a") == 1.0
    blocker.unlink()
    cache.put("d", "t", "b", 2.0)
    cache.save()
    assert (blocker / "c").read_text() == line("a", 1.0) + line("b", 2.0)


def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: object, kind: int) -> None:
        raise OSError("no locks")

    monkeypatch.setattr(timing_cache.fcntl, "flock", refuse)
    saved(tmp_path / "c", ("a", 1.0))
    assert len(TimingCache(tmp_path / "c")) == 1


def test_many_threads_may_put_and_save(tmp_path: Path) -> None:
    cache = TimingCache(tmp_path / "c")

    def work(number: int) -> None:
        for i in range(50):
            cache.put("d", "t", f"{number} {i}", float(i))
            cache.save()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(TimingCache(tmp_path / "c")) == 400


WRITER = """
import sys
from torch2rt.build.timing_cache import TimingCache
path, number = sys.argv[1:]
for i in range(40):
    cache = TimingCache(path)
    for j in range(20):
        cache.put("d", "t", f"{number} {i} {j} " + "x" * 200, float(number))
    cache.save()
"""


def test_many_processes_share_one_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c"
    commands = [[sys.executable, "-W", "error", "-c", WRITER, str(path), str(i)] for i in range(4)]
    writers = [
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for command in commands
    ]
    for writer in writers:
        # A reader that met half a line would have warned on its standard error.
        assert writer.communicate(timeout=120)[1] == b""
        assert writer.returncode == 0
    cache = TimingCache(path)
    assert len(cache) == 4 * 40 * 20
    assert all(cache.get("d", "t", f"{n} {i} {j} " + "x" * 200) == n
               for n in range(4) for i in range(40) for j in range(20))
    assert caplog.records == []
