"""What a contender is: one way to run a PyTorch model, built from the model and its inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch2rt.bench.source import LoadedModel


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build. ``folder`` is scratch space of this worker alone."""

    loaded: LoadedModel
    variant: str
    precision: str
    device: str
    threads: int
    folder: Path


class Contender(ABC):
    """One library under measurement.

    ``variants`` lists, per precision, the ways the library can do it; all are built, each in its
    own process, and the quickest stands for the contender. A precision that is absent is
    reported as n/a. A contender's methods run in the worker, where its libraries may be imported.
    """

    name: ClassVar[str]
    # Distributions it needs beside torch; the first one's version is the contender's.
    packages: ClassVar[tuple[str, ...]]
    variants: ClassVar[Mapping[str, tuple[str, ...]]]
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    # Whether others are compared with it: everything but torch2rt itself.
    is_peer: ClassVar[bool] = True
    # Whether it chooses kernels by timing them, so that noise while building costs it speed.
    times_while_building: ClassVar[bool] = False

    @abstractmethod
    def build(self, request: BuildRequest) -> Callable[[], object]:
        """A function that runs the model once on the example inputs and returns its outputs.

        Outputs may be in any nesting that `values.flat_arrays` understands, in the model's order.
        On an asynchronous device the function returns after the result is there.
        """

    def context(self) -> AbstractContextManager[object]:
        """Entered once around a whole turn, e.g. to switch gradients off."""
        return nullcontext()
