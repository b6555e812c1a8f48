"""A copy of a network, whose constants are shared."""

from __future__ import annotations

from torch2rt.network.network import Network
from torch2rt.network.text import parse, text


def copy_network(network: Network) -> Network:
    """The network as it is now, with its origins; constants share their arrays."""
    constants = {t.name: t.data for t in network.constants if t.data is not None}
    copied = parse(text(network), constants)
    for layer, original in zip(copied.layers, network.layers, strict=True):
        copied.set_origins(layer, original.origins)
    return copied
