"""The timing cache: measured time per tactic, in a readable file that many processes may share.

One JSON object per line::

    {"device": "...", "tactic": "convolution.onednn.direct", "layer": "convolution...", "us": 41.3}

``device`` is the backend's fingerprint (hardware and library versions), ``layer`` the signature of
the layer with its layouts. Lines are appended under a file lock; where a key appears twice the
last line counts. The file can be edited (a time of ``"failed"`` keeps a tactic out), merged with
``cat`` and deleted. Lines that are no times
are skipped with a warning. A path that cannot be read is an error; one that cannot be written to is
a warning, for times that are lost cost a minute and a build that is lost costs more.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import threading
from pathlib import Path
from typing import BinaryIO

from torch2rt.errors import ConfigError

logger = logging.getLogger(__name__)

_FAILED = "failed"


class TimingCache:
    """Times in microseconds by (device, tactic, layer); infinity for a tactic that failed.

    ``path=None`` keeps it in memory only. ConfigError if there is something at the path that
    cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self._times: dict[tuple[str, str, str], float] = {}
        self._unsaved: list[str] = []
        self._lock = threading.Lock()
        if self.path is not None:
            self._parse(_read(self.path))

    def __len__(self) -> int:
        return len(self._times)

    def get(self, device: str, tactic: str, layer: str) -> float | None:
        """The time, or None if it was never measured."""
        return self._times.get((device, tactic, layer))

    def put(self, device: str, tactic: str, layer: str, time_us: float) -> None:
        """Remember a time; it reaches the file with the next `save`.

        It is rounded as the file rounds it, so that a build from the file chooses alike. A failure
        is remembered in memory only: another version may succeed where this one does not.
        """
        us = round(time_us, 3) if math.isfinite(time_us) else math.inf
        record = {"device": device, "tactic": tactic, "layer": layer, "us": us}
        with self._lock:
            self._times[device, tactic, layer] = us
            if us < math.inf:
                self._unsaved.append(json.dumps(record))

    def save(self) -> None:
        """Append what is new to the file, in one write under its lock; a warning if it cannot."""
        with self._lock:
            lines, self._unsaved = self._unsaved, []
        if self.path is None or not lines:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _append(self.path, "\n".join(lines) + "\n")
        except OSError as error:
            with self._lock:
                self._unsaved = lines + self._unsaved
            logger.warning("%s cannot be written (%s): %d measured times stay in memory only",
                           self.path, error.strerror, len(lines))

    def _parse(self, text: str) -> None:
        bad: list[str] = []
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                key, time_us = _record(line)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                bad.append(f"line {number}: {type(error).__name__}: {error}")
            else:
                self._times[key] = time_us
        if bad:
            logger.warning("%s: %d line(s) are not times and are skipped, the first being %s",
                           self.path, len(bad), bad[0])


def _record(line: str) -> tuple[tuple[str, str, str], float]:
    record = json.loads(line)
    device, tactic, layer, us = (record[name] for name in ("device", "tactic", "layer", "us"))
    if not all(isinstance(text, str) for text in (device, tactic, layer)):
        raise ValueError("device, tactic and layer are texts")
    if us == _FAILED:
        return (device, tactic, layer), math.inf
    if isinstance(us, bool) or not isinstance(us, int | float) or not 0 <= us < math.inf:
        raise ValueError(f'"us" is a number of microseconds or "{_FAILED}", not {us!r:.50}')
    return (device, tactic, layer), float(us)


def _read(path: Path) -> str:
    """The file's text; empty if there is no file."""
    try:
        with path.open("rb") as file:
            _lock(file, fcntl.LOCK_SH)
            return file.read().decode("utf-8-sig", errors="replace")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise ConfigError(
            option="timing_cache", value=str(path), reason=f"it cannot be read ({error})",
            remedy="Pass the path of a file, new or written by torch2rt.",
        ) from error


def _append(path: Path, text: str) -> None:
    with path.open("a+b") as file:
        _lock(file, fcntl.LOCK_EX)
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            # Another writer was cut off in its last line: keep ours apart from it.
            text = text if file.read(1) == b"\n" else "\n" + text
        file.write(text.encode())


def _lock(file: BinaryIO, kind: int) -> None:
    """Lock a file until it is closed. Where the file system has no locks, writers take chances."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, kind)
