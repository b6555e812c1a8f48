"""Removal of what nothing reads."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.network.network import Network
from torch2rt.passes.base import Log, Pass


class EliminateDead(Pass):
    """Remove layers and constants that nothing reads.

    Before: %a = relu(%x)  %b = exp(%x)  output y = %a     and a constant @w that nobody reads
    After:  %a = relu(%x)  output y = %a
    Network inputs stay: they are the engine's bindings.
    """

    name: ClassVar[str] = "eliminate_dead"

    def run(self, network: Network, log: Log) -> bool:
        """Last layers first, so that one sweep is enough."""
        changed = False
        for layer in reversed(network.layers):
            if not any(network.is_used(output) for output in layer.outputs):
                network.remove(layer)
                changed = True
        for tensor in network.constants:
            if not network.is_used(tensor):
                network.remove_constant(tensor)
                changed = True
        return changed
