"""Layers and constants that are there twice become one."""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

import numpy as np

from torch2rt.layers.aten import Aten
from torch2rt.network.dtype import Array
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Log, Pass

_SAMPLES = 16


class EliminateCommon(Pass):
    """Merge equal constants, then layers of equal kind, inputs and epilogue.

    Before: %a = relu(%x)  %b = relu(%x)  %y = add(%a, %b)
    After:  %a = relu(%x)  %y = add(%a, %a)
    The first one stays, with the origins of all. Fallback layers stay apart: they may draw random
    numbers.
    """

    name: ClassVar[str] = "eliminate_common"

    def run(self, network: Network, log: Log) -> bool:
        """One sweep in topological order."""
        changed = _merge_constants(network)
        seen: dict[Hashable, Layer] = {}
        for layer in network.layers:
            if isinstance(layer.kind, Aten):
                continue
            first = seen.setdefault(_key(layer), layer)
            if first is layer:
                continue
            for old, new in zip(layer.outputs, first.outputs, strict=True):
                network.replace(old, new)
            network.set_origins(first, (*first.origins, *layer.origins))
            network.remove(layer)
            log.fire(self.name, first)
            changed = True
        return changed


def _key(layer: Layer) -> Hashable:
    return (
        layer.kind,
        layer.inputs,
        layer.epilogue,
        tuple(output.type for output in layer.outputs),
    )


def _merge_constants(network: Network) -> bool:
    changed = False
    groups: dict[Hashable, list[Tensor]] = {}
    for tensor in network.constants:
        assert tensor.data is not None
        group = groups.setdefault((tensor.type, _fingerprint(tensor.data)), [])
        same = next((t for t in group if _is_equal(t, tensor)), None)
        if same is None:
            group.append(tensor)
            continue
        network.replace(tensor, same)
        network.remove_constant(tensor)
        changed = True
    return changed


def _fingerprint(data: Array) -> bytes:
    """A few elements, spread out: cheap, and rarely equal by chance."""
    flat = data.reshape(-1)
    step = max(1, flat.size // _SAMPLES)
    return flat[::step].tobytes()


def _is_equal(left: Tensor, right: Tensor) -> bool:
    """Whether the data are the same bit for bit."""
    assert left.data is not None
    assert right.data is not None
    if left.data is right.data:
        return True
    bits = [np.ascontiguousarray(t.data).reshape(-1).view(np.uint8) for t in (left, right)]
    return bool(np.array_equal(bits[0], bits[1]))
