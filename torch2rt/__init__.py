"""torch2rt: turns a PyTorch model into an inference engine of its own, ahead of time."""

from __future__ import annotations

__version__ = "0.1.0"
