"""What a contender is: one way to run a PyTorch model, built from the model and its inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from torch2rt.bench.source import LoadedModel


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build. ``folder`` is scratch space of this worker alone.

    ``timing_cache`` and ``tune_budget_s`` are for contenders that choose kernels by timing;
    without a file the measured times are the build's own.
    """

    loaded: LoadedModel
    variant: str
    precision: str
    device: str
    threads: int
    folder: Path
    timing_cache: Path | None = None
    tune_budget_s: float | None = None

    @property
    def is_on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")


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
    # The same on a GPU, where it differs.
    cuda_variants: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    # Whether others are compared with it: everything but torch2rt itself.
    is_peer: ClassVar[bool] = True
    # Whether it chooses kernels by timing them, so that noise while building costs it speed.
    times_while_building: ClassVar[bool] = False
    # Seconds after which its build is given up, where that is less than the run's limit.
    build_limit_s: ClassVar[float | None] = None

    def variants_on(self, device: str) -> Mapping[str, tuple[str, ...]]:
        """The variants by precision on a device."""
        if device.startswith("cuda") and self.cuda_variants:
            return self.cuda_variants
        return self.variants

    @abstractmethod
    def build(self, request: BuildRequest) -> Callable[[], object]:
        """A function that runs the model once on the example inputs and returns its outputs.

        Outputs may be in any nesting that `values.flat_arrays` understands, in the model's order.
        On a GPU inputs and outputs stay there, and the function may return before the work that
        it enqueues on torch's current stream is done.
        """

    def context(self) -> AbstractContextManager[object]:
        """Entered once around a whole turn, e.g. to switch gradients off."""
        return nullcontext()
