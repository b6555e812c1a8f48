"""What a test needs that a machine may lack: there it is skipped, and says which package it is."""

from __future__ import annotations

import pytest

from torch2rt.backends.cpu.backend import onednn_unavailable

ONEDNN = "needs oneDNN: pip install onednn-cpu-gomp"
needs_onednn = pytest.mark.skipif(onednn_unavailable() is not None, reason=ONEDNN)


def skip_where_missing(tactic: str) -> None:
    """Skip the running test where a tactic's library is missing."""
    if ".onednn." in tactic and onednn_unavailable() is not None:
        pytest.skip(ONEDNN)
