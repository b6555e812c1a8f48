"""The blob cache: compiled kernels and the like, one file each, shared by builds and processes.

A file is named by the digest of the compilers' versions and the blob's key. It holds a blob, or why
the compilers refuse to make it, starts with a digest of what follows, and is put in place whole. A
file that is not what its digest says is ignored and written again. The folder can be deleted at
any time.
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

_BLOB = b"torch2rt blob 1\n"
_REFUSAL = b"torch2rt none 1\n"
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
        """The blob, or None if it was never made, or refused."""
        if key not in self._blobs and key not in self._failures and self.folder is not None:
            self._read(self.folder, key)
        return self._blobs.get(key)

    def put(self, key: str, blob: bytes) -> None:
        """Remember a blob, here and in the folder; a warning if it cannot be written."""
        self._blobs[key] = blob
        self._write(key, _BLOB, blob)

    def refused(self, key: str, reason: str) -> None:
        """Remember, here and in the folder, that these compilers refuse to make a blob."""
        self._failures[key] = reason
        self._write(key, _REFUSAL, reason.encode())

    def failed(self, key: str, reason: str) -> None:
        """Remember, for this build, that a job did not end as it should."""
        self._failures[key] = reason

    def knows(self, key: str) -> bool:
        """Whether `fetch` would run no job."""
        return self.get(key) is not None or key in self._failures

    def fetch(self, key: str, job: Job) -> bytes:
        """The blob, made here and now if need be. Unprepared when its job cannot be done."""
        blob = self.get(key)
        if key in self._failures:
            raise Unprepared(self._failures[key])
        if blob is None:
            try:
                blob = job.run()
            except Unprepared as error:
                self.refused(key, str(error))
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

    def _read(self, folder: Path, key: str) -> None:
        """Take up what the folder knows of a key."""
        try:
            data = self._path(folder, key).read_bytes()
        except OSError:
            return
        magic, start = data[: len(_BLOB)], len(_BLOB) + _DIGEST_BYTES
        body = data[start:]
        if data[len(_BLOB) : start] != hashlib.sha256(magic + body).digest():
            logger.info("%s is damaged and ignored", self._path(folder, key))
        elif magic == _BLOB:
            self._blobs[key] = body
        elif magic == _REFUSAL:
            self._failures[key] = body.decode(errors="replace")

    def _write(self, key: str, magic: bytes, body: bytes) -> None:
        if self.folder is None or not self._is_writable:
            return
        path = self._path(self.folder, key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, magic + hashlib.sha256(magic + body).digest() + body)
        except OSError as error:
            with self._lock:
                if self._is_writable:
                    logger.warning("%s cannot be written to (%s): compiled kernels stay in memory",
                                   self.folder, error.strerror)
                self._is_writable = False


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
