"""What a backend is, and how tactics are found: the files of its ``tactics`` folder are scanned."""

from __future__ import annotations

import abc
import importlib
import importlib.util
import inspect
import math
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Call, Refusal, Tactic
from torch2rt.errors import RegistrationError
from torch2rt.network.dtype import Array, DType


class RunPlan(Protocol):
    """Runs the steps of a plan: enqueued on a stream of the device, or done when it returns."""

    def __call__(self, stream: int = 0) -> None:
        """Run once. DeviceError when that fails."""


@dataclass(frozen=True)
class Peaks:
    """Rates no kernel exceeds: memory in bytes/s, matrix arithmetic in flop/s by operand dtype."""

    bytes_per_s: float
    flops_per_s: Mapping[DType, float]


class Backend(abc.ABC):
    """A device: its memory, its stream, its timer and its tactics."""

    name: str
    device: str

    @property
    @abc.abstractmethod
    def tactics(self) -> dict[str, Tactic]:
        """All tactics by name."""

    def tactic(self, name: str) -> Tactic:
        """One tactic by name; KeyError if this backend has none of that name."""
        return self.tactics[name]

    def lacks_float8(self) -> str | None:
        """Why products of float8 do not run on this device, or None."""
        return f"{self.device} has no products of float8"

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Hardware and library versions: what a measured time depends on."""

    @abc.abstractmethod
    def allocate(self, size_bytes: int) -> Any:
        """Device memory; kept alive by the returned object."""

    @abc.abstractmethod
    def address(self, memory: Any) -> int:
        """Address of allocated memory."""

    @abc.abstractmethod
    def new_stream(self) -> Any:
        """A stream for one context."""

    @abc.abstractmethod
    def building(self) -> AbstractContextManager[None]:
        """Entered around preparing tactics: the thread count and device are set in it."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Entered around measuring: no other process measures on this device meanwhile."""
        return nullcontext()

    @abc.abstractmethod
    def time_calls_us(
        self, candidates: Sequence[Sequence[Call]], budget_ms: float,
        warm: Sequence[Sequence[Any]] | None = None,
    ) -> list[float]:
        """Time of each candidate's calls in microseconds, measured in turns.

        ``warm`` asks for cold caches, as a layer with large weights finds them in a network: they
        are emptied before each run, but for the memory blocks given here per candidate.
        """

    @abc.abstractmethod
    def runner(self, calls: Sequence[Call]) -> Callable[[], None]:
        """A function that runs these calls in order, as fast as the device allows.

        It raises DeviceError when a call reports a failure (an int other than 0).
        """

    def plan_runner(
        self, calls_per_step: Sequence[Sequence[Call]], streams: Sequence[int],
        waits: Sequence[Sequence[int]],
    ) -> RunPlan:
        """A function of a stream that runs the steps of a plan.

        Step i belongs on stream ``streams[i]`` of the plan and starts after the steps
        ``waits[i]`` of other streams have ended. Default: one step after the other, here and now.
        """
        run = self.runner([call for calls in calls_per_step for call in calls])

        def run_plan(stream: int = 0) -> None:
            run()

        return run_plan

    def is_idle(self, run: RunPlan, stream: int) -> bool:
        """Whether work enqueued on ``stream`` need not wait for an earlier use of this runner."""
        return True

    # Whether a tactic must agree with the layer's reference before it may win.
    checks_candidates: bool = False
    # Processes that compile candidates; 1: in this process.
    compile_workers: int = 1
    # Streams that a plan may use.
    max_streams: int = 1
    # Whether plans are compared as a whole.
    times_runs: bool = False
    # Runs of a plan until it does what it will always do.
    runs_to_settle: int = 1

    def is_suspect(self, tactic: Tactic) -> bool:
        """Whether a new candidate is run for the first time in another process."""
        return False

    def compiler_version(self) -> str:
        """Versions of what turns sources into blobs: part of the key of a cached blob."""
        return ""

    @abc.abstractmethod
    def upload_bytes(self, address: int, data: Array) -> None:
        """Copy an array's bytes to device memory, and wait for it."""

    @abc.abstractmethod
    def download_bytes(self, address: int, size_bytes: int) -> Array:
        """The bytes at an address of device memory, after all work enqueued so far."""

    def time_run_us(self, run: RunPlan) -> float:
        """Time of a whole plan's run in microseconds, where ``times_runs`` says so."""
        raise NotImplementedError

    def peaks(self) -> Peaks | None:
        """What the device can do at most, where that is known."""
        return None

    def candidates(
        self, spec: LayerSpec, below: float = math.inf
    ) -> tuple[list[Tactic], list[str]]:
        """The tactics that take a layer, and why others do not.

        Only those of the highest level that is less than ``below``. A layer that makes something
        of nothing (a product over no features is zeros) is left to the last resort.
        """
        if _makes_something_of_nothing(spec):
            below = min(below, 1)
        taken: list[Tactic] = []
        refused: list[str] = []
        for tactic in self.tactics.values():
            if "*" not in tactic.kinds and spec.kind.name not in tactic.kinds:
                continue
            answer = tactic.supports(spec)
            if isinstance(answer, Refusal):
                refused.append(f"{tactic.name}: {answer.reason}")
            else:
                taken.append(tactic)
        level = max((tactic.level for tactic in taken if tactic.level < below), default=None)
        return [tactic for tactic in taken if tactic.level == level], refused


def _makes_something_of_nothing(spec: LayerSpec) -> bool:
    inputs, outputs = spec.inputs[: spec.main_count], spec.outputs
    return any(x.element_count == 0 for x in inputs) and any(x.element_count for x in outputs)


@cache
def find_tactics(package: str) -> dict[str, Tactic]:
    """One instance of every tactic in the files of a package, by name."""
    module = importlib.import_module(package)
    found: dict[str, Tactic] = {}
    for path in module.__path__:
        for info in sorted(pkgutil.iter_modules([str(Path(path))]), key=lambda info: info.name):
            for cls in _tactic_classes(f"{package}.{info.name}"):
                if cls.name in found:
                    raise RegistrationError(
                        what="tactic", name=cls.name, first=type(found[cls.name]).__module__,
                        second=cls.__module__,
                    )
                found[cls.name] = cls()
    return found


@cache
def find_tactic(package: str, name: str) -> Tactic:
    """One tactic, from the file that its name says: ``a.b.c`` is in ``a_b_c.py`` or ``a_b.py``.

    Others are not imported: an engine that loads needs a few of many. KeyError if there is none.
    """
    parts = name.split(".")
    if not all(re.fullmatch(r"[a-z][a-z0-9_]*", part) for part in parts):
        raise KeyError(name)
    for file in ("_".join(parts), "_".join(parts[:2])):
        if importlib.util.find_spec(f"{package}.{file}") is not None:
            for cls in _tactic_classes(f"{package}.{file}"):
                if cls.name == name:
                    return cls()
    raise KeyError(name)


def _tactic_classes(module_name: str) -> list[type[Tactic]]:
    module = importlib.import_module(module_name)
    return [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, Tactic) and cls.__module__ == module_name and hasattr(cls, "name")
    ]
