"""What a fusion is, and the pass that runs fusions to a fixpoint.

A fusion is one class in one file: ``match`` looks at one layer and finds its pattern, ``check``
says why it may not fire, ``rewrite`` changes the network. Files of this folder are found by
scanning it; ``priority`` orders them, lower first.
"""

from __future__ import annotations

import abc
import importlib
import inspect
import pkgutil
from functools import cache
from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar

from torch2rt.errors import RegistrationError
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Log, Pass, Reject

Match = TypeVar("Match")
_MAX_ROUNDS = 100


class Fusion(abc.ABC, Generic[Match]):
    """A rewrite of a few layers into fewer.

    ``name`` says what results. ``equation`` is the algebra, for the report.
    """

    name: ClassVar[str]
    equation: ClassVar[str]
    priority: ClassVar[int] = 50

    @classmethod
    def for_target(cls, target: str) -> Self:
        """The fusion as it pays on a backend: "cpu" or "cuda". Default: the same on all."""
        return cls()

    @abc.abstractmethod
    def match(self, network: Network, layer: Layer) -> Match | None:
        """The pattern whose last layer is ``layer``, or None."""

    @abc.abstractmethod
    def check(self, network: Network, match: Match) -> Reject | None:
        """Why a matched pattern must not be rewritten, or None."""

    @abc.abstractmethod
    def rewrite(self, network: Network, match: Match) -> Layer:
        """Rewrite, and return the layer that resulted. Origins are carried over."""


class Fuse(Pass):
    """Runs fusions over all layers until none fires."""

    def __init__(self, name: str, fusions: tuple[Fusion[object], ...]) -> None:
        self.name = name  # type: ignore[misc]  # several stages of one class
        self.fusions = fusions

    def run(self, network: Network, log: Log) -> bool:
        """Fire until nothing does; RuntimeError if that does not end."""
        changed = False
        for _ in range(_MAX_ROUNDS):
            if not any([self._sweep(fusion, network, log) for fusion in self.fusions]):
                return changed
            changed = True
        raise RuntimeError(f"fusions still fire after {_MAX_ROUNDS} rounds: they undo each other")

    def _sweep(self, fusion: Fusion[object], network: Network, log: Log) -> bool:
        fired = False
        for layer in network.layers:
            while layer.is_alive and (result := self._try(fusion, network, layer, log)):
                layer = result
                fired = True
        return fired

    @staticmethod
    def _try(fusion: Fusion[object], network: Network, layer: Layer, log: Log) -> Layer | None:
        match = fusion.match(network, layer)
        if match is None:
            return None
        reject = fusion.check(network, match)
        if reject is not None:
            log.reject(fusion.name, layer, reject.reason)
            return None
        result = fusion.rewrite(network, match)
        log.fire(fusion.name, result)
        return result


def fusions_between(low: int, high: int, target: str = "cpu") -> tuple[Fusion[object], ...]:
    """The fusions with low <= priority < high, in order, as they pay on a backend."""
    return tuple(fusion for fusion in all_fusions(target) if low <= fusion.priority < high)


def all_fusions(target: str = "cpu") -> tuple[Fusion[object], ...]:
    """One instance for a backend of every fusion of this folder, by priority, then name."""
    return _fusions_for(target)


@cache
def _fusions_for(target: str) -> tuple[Fusion[object], ...]:
    folder = Path(__file__).parent
    found: dict[str, type[Fusion[object]]] = {}
    for info in pkgutil.iter_modules([str(folder)]):
        module = importlib.import_module(f"torch2rt.fusions.{info.name}")
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ != module.__name__ or not issubclass(cls, Fusion):
                continue
            if inspect.isabstract(cls):
                continue
            if cls.name in found:
                raise RegistrationError(
                    what="fusion", name=cls.name, first=found[cls.name].__module__,
                    second=cls.__module__,
                )
            found[cls.name] = cls
    ordered = sorted(found.values(), key=lambda cls: (cls.priority, cls.name))
    return tuple(cls.for_target(target) for cls in ordered)
