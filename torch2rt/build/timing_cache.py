"""The timing cache: measured time per tactic, in a readable file that many processes may share.

One JSON object per line::

    {"device": "...", "tactic": "convolution.onednn.direct", "layer": "convolution...", "us": 41.3}

``device`` is the backend's fingerprint (hardware and library versions), ``layer`` the signature of
the layer with its layouts. Lines are appended under a file lock; where a key appears twice the
last line counts. The file can be edited, merged with ``cat`` and deleted.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import threading
from pathlib import Path

logger = logging.getLogger(__name__)


class TimingCache:
    """Times in microseconds by (device, tactic, layer); infinity for a tactic that failed.

    ``path=None`` keeps it in memory only.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self._times: dict[tuple[str, str, str], float] = {}
        self._unsaved: list[str] = []
        self._lock = threading.Lock()
        if self.path is not None and self.path.exists():
            self._read(self.path.read_text(encoding="utf-8"))

    def __len__(self) -> int:
        return len(self._times)

    def get(self, device: str, tactic: str, layer: str) -> float | None:
        """The time, or None if it was never measured."""
        return self._times.get((device, tactic, layer))

    def put(self, device: str, tactic: str, layer: str, time_us: float) -> None:
        """Remember a time; it reaches the file with the next `save`."""
        record = {"device": device, "tactic": tactic, "layer": layer,
                  "us": round(time_us, 3) if math.isfinite(time_us) else "failed"}
        with self._lock:
            self._times[device, tactic, layer] = time_us
            self._unsaved.append(json.dumps(record))

    def save(self) -> None:
        """Append what is new to the file, in one write under its lock."""
        with self._lock:
            lines, self._unsaved = self._unsaved, []
        if self.path is None or not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = ("\n".join(lines) + "\n").encode()
        with self.path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if file.tell() and not self._ends_with_newline():
                data = b"\n" + data
            file.write(data)
            file.flush()

    def _ends_with_newline(self) -> bool:
        assert self.path is not None
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def _read(self, text: str) -> None:
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                key = (str(record["device"]), str(record["tactic"]), str(record["layer"]))
                us = record["us"]
                self._times[key] = math.inf if us == "failed" else float(us)
            except (ValueError, KeyError, TypeError) as error:
                logger.warning("%s, line %d is not a time and is skipped: %s",
                               self.path, number, error)
