"""What a tactic is: one way to run one kind of layer on a backend.

A tactic is one class in one file of a backend's ``tactics`` folder. The builder asks `supports`,
then `layouts`, prepares and times every choice, and keeps the cheapest assignment. At load the
chosen tactic is prepared again from the same spec and weights.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

from torch2rt.backends.buffer import Buffer
from torch2rt.backends.spec import LayerSpec, LayoutChoice, plain_choice
from torch2rt.network.dtype import Array

# One step at run time: function(*arguments). A return value that is not falsy is an error status.
Call: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a tactic does not take a layer."""

    reason: str


@dataclass(frozen=True, slots=True)
class View:
    """An output that is (part of) an input's memory, or an input that is part of an output's.

    ``inner`` and ``outer`` are ("input" | "output", index); the inner one's bytes start
    ``offset_bytes`` into the outer one's. They are dense there if ``pitch`` is 0; otherwise every
    ``run`` elements are contiguous and the next run starts ``pitch`` elements later.
    """

    inner: tuple[str, int]
    outer: tuple[str, int]
    offset_bytes: int
    run: int = 0
    pitch: int = 0


class Weights(abc.ABC):
    """The constants of an engine, and their packed forms, each made once and shared by plans."""

    @abc.abstractmethod
    def array(self, name: str) -> Array:
        """A constant's data in row-major order; bits where numpy has no such dtype."""

    @abc.abstractmethod
    def packed(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """The object made for this key, made now if it is the first time."""

    def blob(self, key: str, job: Job) -> bytes:
        """Compiled code and the like: from the engine file, else a cache, else ``job.run()``.

        The key says everything the bytes depend on, but for versions of compilers.
        """
        return job.run()


class Job(Protocol):
    """Something slow that yields bytes. Picklable, so that another process may run it."""

    def run(self) -> bytes:
        """Do it. Raises `Unprepared` when it cannot be done."""


class QuickJob(abc.ABC):
    """A job that is done here before another process has a context on the device."""

    @abc.abstractmethod
    def run(self) -> bytes:
        """As a `Job`."""


class Prepared(abc.ABC):
    """A tactic ready to be bound to buffers: code generated, weights packed.

    Immutable and shared by all contexts.
    """

    workspace_bytes: int = 0
    # Inputs whose memory output 0 may take over when nobody reads them afterwards.
    may_overwrite: tuple[int, ...] = ()
    # Non-empty for tactics that only place tensors in each other's memory and run nothing.
    views: tuple[View, ...] = ()
    # Whether a step runs through torch, so that the engine cannot do without it.
    needs_torch: bool = False

    @abc.abstractmethod
    def bind(
        self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int, stream: Any
    ) -> Sequence[Call]:
        """The calls that run it on these buffers. ``workspace`` is an address.

        Constant inputs have no buffer of their own: their entry is `Buffer` without address, the
        prepared weights are used instead.
        """


class Tactic(abc.ABC):
    """One way to run a kind of layer. ``name`` is ``kind.library.variant``."""

    name: ClassVar[str]
    # The kinds it may support; ("*",) for any.
    kinds: ClassVar[tuple[str, ...]]
    # Tactics of a lower level are not tried when one of a higher level supports the layer.
    level: ClassVar[int] = 1

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Whether it runs with the pitched operands of this spec, as well as with dense ones.

        Runs, pitches and addresses are multiples of 16 bytes. Default: dense operands only.
        """
        return all(operand.is_dense for operand in (*spec.inputs, *spec.outputs))

    @abc.abstractmethod
    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Why this layer is not taken, or None. Layouts of the spec are not yet chosen."""

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """The layout choices worth timing. Default: all row-major."""
        return (plain_choice(spec),)

    def estimate_us(self, spec: LayerSpec) -> float | None:
        """A guess of its time with layouts chosen, to leave out the hopeless. None: no idea."""
        return None

    @abc.abstractmethod
    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Generate code and pack weights for a spec whose layouts are chosen.

        Raises `Unprepared` when the library refuses after all.
        """


class Unprepared(Exception):
    """A tactic that said it supports a layer cannot be prepared for it; the text says why."""
