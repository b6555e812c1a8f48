"""The blob cache: compiled kernels and the like, one file each, shared by builds and processes.

A file is named by the digest of the compilers' versions and the blob's key, starts with a digest
of what follows, and is put in place whole. A file that is not what its digest says is ignored and
written again. The folder can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from pathlib import Path

from torch2rt.backends.tactic import Job, Unprepared

logger = logging.getLogger(__name__)

_MAGIC = b"torch2rt blob 1\n"
_DIGEST_BYTES = 32


class BlobCache:
    """Blobs by key. ``folder=None`` keeps them in memory only.

    ``version`` names the compilers: blobs of other versions are not seen.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, version: str = "") -> None:
        self.folder = Path(folder) if folder is not None else None
        self.version = version
        self._blobs: dict[str, bytes] = {}
        self._failures: dict[str, str] = {}
        self._is_writable = True
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """The blob, or None if it was never made."""
        blob = self._blobs.get(key)
        if blob is None and self.folder is not None:
            blob = _read(self._path(self.folder, key))
            if blob is not None:
                self._blobs[key] = blob
        return blob

    def put(self, key: str, blob: bytes) -> None:
        """Remember a blob, here and in the folder; a warning if it cannot be written."""
        self._blobs[key] = blob
        if self.folder is None or not self._is_writable:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self._path(self.folder, key), blob)
        except OSError as error:
            with self._lock:
                if self._is_writable:
                    logger.warning("%s cannot be written to (%s): compiled kernels stay in memory",
                                   self.folder, error.strerror)
                self._is_writable = False

    def failed(self, key: str, reason: str) -> None:
        """Remember, for this build, that a job cannot be done."""
        self._failures[key] = reason

    def knows(self, key: str) -> bool:
        """Whether `fetch` would run no job."""
        return key in self._failures or self.get(key) is not None

    def fetch(self, key: str, job: Job) -> bytes:
        """The blob, made here and now if need be. Unprepared when its job cannot be done."""
        if key in self._failures:
            raise Unprepared(self._failures[key])
        blob = self.get(key)
        if blob is None:
            try:
                blob = job.run()
            except Unprepared as error:
                self.failed(key, str(error))
                raise
            self.put(key, blob)
        return blob

    def forget(self) -> None:
        """Drop what lies in the folder too from memory."""
        if self.folder is not None and self._is_writable:
            self._blobs.clear()

    def _path(self, folder: Path, key: str) -> Path:
        digest = hashlib.sha256(f"{self.version}\0{key}".encode()).hexdigest()
        return folder / digest[:2] / digest[2:40]


def _read(path: Path) -> bytes | None:
    """The blob in a file, None if there is none or it is damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    start = len(_MAGIC) + _DIGEST_BYTES
    blob = data[start:]
    if data[:start] != _MAGIC + hashlib.sha256(blob).digest():
        logger.info("%s is damaged and ignored", path)
        return None
    return blob


def _write(path: Path, blob: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        temporary.write_bytes(_MAGIC + hashlib.sha256(blob).digest() + blob)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
