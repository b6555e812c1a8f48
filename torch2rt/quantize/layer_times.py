"""What layers take in 8 bits and in float, from engines that were built: gives the fastest mix.

The time of a contraction depends on its own precision and on how its result is stored, which its
readers decide: writing a byte from a float convolution costs nothing, writing a float from an
8-bit one costs the bytes. Reading bytes as floats takes a step of its own, once per store. What no
engine has shown yet is guessed from the bytes that more or less are moved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from torch2rt.build.select import Costs, cheapest, total_cost
from torch2rt.engine.specs import tensor_spec
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.quantize.step_times import StepTimes
from torch2rt.quantize.stores import stores_of

# No mix that needs this is chosen.
_IMPOSSIBLE_US = 1e12
# A layer that writes fewer bytes is not guessed to take less than this part of its time.
_LEAST = 0.5
_INT8, _FLOAT = 0, 1


@dataclass(frozen=True, slots=True)
class Timed:
    """Times of one layer in microseconds, each in the best company it was seen in."""

    int8_us: float
    float_us: float


class LayerTimes:
    """Times of the layers of a calibrated network, in the precisions they were seen in.

    ``names`` are the contractions that can have 8 bits, ``symbols`` the shapes of the profiles,
    ``float_bytes`` the size of the float beside them.
    """

    def __init__(
        self, network: Network, names: Collection[str], symbols: Sequence[Mapping[str, int]],
        float_bytes: int,
    ) -> None:
        self.network = network
        self.names = [layer.name for layer in network.layers if layer.name in set(names)]
        self.symbols = symbols
        self.float_bytes = float_bytes
        self._layers = {layer.name: layer for layer in network.layers}
        self._by_tensor = stores_of(network, self.names)
        unique = {id(store): store for store in self._by_tensor.values()}
        self.stores = list(unique.values())
        self._number = {id(store): number for number, store in enumerate(self.stores)}
        # By layer, whether it has 8 bits, and whether its result does.
        self._own: dict[tuple[str, bool, bool], float] = {}
        # By number of the store and whether it has 8 bits: the layers that belong to no choice.
        self._others: dict[tuple[int, bool], float] = {}
        self._conversions: dict[int, float] = {}
        self._merged: set[tuple[str, ...]] = set()
        self._bytes_per_us, self._least_us = 0.0, 0.0

    # ---- what engines show -----------------------------------------------------------------

    def observe(self, steps: StepTimes, chosen: Collection[str]) -> None:
        """Take in the times of an engine in which these layers have 8 bits."""
        self._bytes_per_us = max(self._bytes_per_us, steps.bytes_per_us)
        self._least_us = min(self._least_us or steps.least_us, steps.least_us)
        others: defaultdict[int, float] = defaultdict(float)
        conversions: defaultdict[int, float] = defaultdict(float)
        for name, time_us in steps.by_layer.items():
            members = self._members(name)
            for member in members:
                key = (member, member in chosen, self._writes_int8(member, chosen))
                self._own[key] = time_us / len(members)
            number = None if members else self._store_of_step(name)
            if number is None:
                continue
            is_conversion = name not in self._layers and self.stores[number].is_converted(chosen)
            (conversions if is_conversion else others)[number] += time_us
        for number, store in enumerate(self.stores):
            self._others[number, store.is_int8(chosen)] = others[number]
            if store.is_converted(chosen):
                self._conversions[number] = conversions[number]

    def _members(self, name: str) -> tuple[str, ...]:
        """The contractions that a layer was made from: itself, or merged siblings."""
        members = (name,) if name in self._layers else tuple(name.split("-"))
        if not set(members) <= set(self.names):
            return ()
        if len(members) > 1:
            self._merged.add(members)
        return members

    def _store_of_step(self, name: str) -> int | None:
        """The store that a layer without a choice goes with: of what it reads.

        Those that have come in since are named after their tensors: x.int8, x.restored.reformat.
        """
        layer = self._layers.get(name)
        names = [tensor.name for tensor in layer.inputs] if layer is not None else []
        while layer is None and name:
            name = name.rpartition(".")[0]
            names.append(name)
        store = next((self._by_tensor[found] for found in names if found in self._by_tensor), None)
        return None if store is None else self._number[id(store)]

    # ---- what they say ---------------------------------------------------------------------

    def of_layer(self, name: str) -> Timed:
        """Times of a layer in either precision, its result stored as it is best."""
        return Timed(*(
            min(self._own_us(name, is_int8, writes_int8) for writes_int8 in (True, False))
            for is_int8 in (True, False)
        ))

    def fastest(
        self, noise: Mapping[str, float] | None = None, price_us: float = 0.0
    ) -> frozenset[str]:
        """The layers that are to have 8 bits so that all take the least time.

        With ``noise`` by layer, as if each unit of it took ``price_us`` more.
        """
        units = self.units()
        unary, pairwise = self._costs(units)
        for number, unit in enumerate(units):
            unary[number][_INT8] += price_us * sum((noise or {}).get(name, 0.0) for name in unit)
        chosen = cheapest(unary, pairwise)
        return frozenset(
            name for unit, option in zip(units, chosen, strict=False) if option == _INT8
            for name in unit
        )

    def predicted_us(self, chosen: Collection[str]) -> float:
        """The time of a mix, of all layers that precisions matter to."""
        units = self.units()
        unary, pairwise = self._costs(units)
        choice = [_INT8 if unit[0] in chosen else _FLOAT for unit in units]
        choice += [_INT8 if store.is_int8(chosen) else _FLOAT for store in self.stores]
        return total_cost(unary, pairwise, choice)

    def units(self) -> list[tuple[str, ...]]:
        """Layers that are decided together: those that were merged into one somewhere."""
        unit_of: dict[str, tuple[str, ...]] = {name: (name,) for name in self.names}
        for members in self._merged:
            joined = tuple(sorted({n for member in members for n in unit_of[member]}))
            unit_of.update(dict.fromkeys(joined, joined))
        return list(dict.fromkeys(unit_of.values()))

    def _costs(
        self, units: Sequence[tuple[str, ...]]
    ) -> tuple[list[Costs], dict[tuple[int, int], Costs]]:
        """Costs of units, then of stores, and of pairs of one with the other."""
        unary: list[Costs] = [np.zeros(2) for _ in (*units, *self.stores)]
        pairwise: dict[tuple[int, int], Costs] = {}
        unit_of = {name: number for number, unit in enumerate(units) for name in unit}

        def between(name: str, store: int) -> Costs:
            return pairwise.setdefault((unit_of[name], len(units) + store), np.zeros((2, 2)))

        for name in self.names:
            writes = self._by_tensor.get(self._layers[name].outputs[0].name)
            if writes is None:
                unary[unit_of[name]] += [self._own_us(name, own, False) for own in (True, False)]
                continue
            between(name, self._number[id(writes)])[:] += [
                [self._own_us(name, own, stored) for stored in (True, False)]
                for own in (True, False)
            ]
        for number, store in enumerate(self.stores):
            unary[len(units) + number] += self._other_us(number)
            for name in (*store.readers, *store.adders):
                between(name, number)[_INT8, _FLOAT] += _IMPOSSIBLE_US
            for name in store.readers:
                between(name, number)[_FLOAT, _INT8] += self._conversion_us(number)
        return unary, pairwise

    def _own_us(self, name: str, is_int8: bool, writes_int8: bool) -> float:
        known = self._own.get((name, is_int8, writes_int8))
        if known is not None:
            return known
        other = self._own.get((name, is_int8, not writes_int8))
        if other is None:
            return _IMPOSSIBLE_US
        more = self._moving_us(list(self._layers[name].outputs), self.float_bytes - 1)
        return max(other - more, _LEAST * other) if writes_int8 else other + more

    def _other_us(self, number: int) -> list[float]:
        """Of a store's other layers, stored in 8 bits and as floats."""
        store = self.stores[number]
        if not (store.readers or store.adders):
            return [_IMPOSSIBLE_US, 0.0]
        known = [self._others.get((number, is_int8)) for is_int8 in (True, False)]
        return [us if us is not None else (known[1 - i] or 0.0) for i, us in enumerate(known)]

    def _conversion_us(self, number: int) -> float:
        """Reading a store's bytes as floats, as a step of its own."""
        if number in self._conversions:
            return self._conversions[number]
        store = self.stores[number]
        read = [t for t in store.tensors if any(u.name in store.readers for u in t.users)]
        return max(self._least_us, self._moving_us(read, self.float_bytes + 1))

    def _moving_us(self, tensors: Sequence[Tensor], element_bytes: int) -> float:
        elements = sum(
            tensor_spec(tensor, symbols).element_count
            for tensor in tensors for symbols in self.symbols
        )
        return elements * element_bytes / self._bytes_per_us if self._bytes_per_us else 0.0

    def _writes_int8(self, name: str, chosen: Collection[str]) -> bool:
        store = self._by_tensor.get(self._layers[name].outputs[0].name)
        return store is not None and store.is_int8(chosen)
