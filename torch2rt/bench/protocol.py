"""What the parent and a worker say to each other: one JSON object per message over a pipe.

The parent sends an order and waits for exactly one answer to it::

    MakeReference -> ReferenceMade | Refused
    Build         -> Built | Refused
    Turn          -> TurnDone
    Close         -> (the worker ends)
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection

from torch2rt.bench.source import ModelSource


@dataclass(frozen=True, slots=True)
class MakeReference:
    """Run the model in eager fp32 (or float64) and write its outputs to ``path`` (.npz)."""

    source: ModelSource
    path: str
    threads: int
    device: str
    use_float64: bool


@dataclass(frozen=True, slots=True)
class ReferenceMade:
    """The reference is written; ``batch`` is the leading dimension of the inputs."""

    batch: int


@dataclass(frozen=True, slots=True)
class Build:
    """Build one variant of one contender and check it against the reference.

    With ``realtime``, a contender that chooses kernels by timing does so undisturbed.
    """

    source: ModelSource
    contender: str
    variant: str
    precision: str
    device: str
    threads: int
    reference: str
    folder: str
    realtime: bool = False
    timing_cache: str | None = None
    tune_budget_s: float | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """Built, first call included, in ``build_s`` seconds, ``error`` away from the reference."""

    version: str
    build_s: float
    error: float


@dataclass(frozen=True, slots=True)
class Refused:
    """No timing will come: ``status`` is a word of `result.STATUSES`, ``reason`` one line."""

    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class Turn:
    """Run for ``seconds`` and at least ``min_calls`` calls, after ``warm_s`` of warm-up.

    With ``realtime``, before all other threads of the machine.
    """

    seconds: float
    min_calls: int
    warm_s: float
    realtime: bool = False


@dataclass(frozen=True, slots=True)
class TurnDone:
    """One turn's result.

    ``median_ms`` is over the calls of the turn. ``cpu_s`` is the processor time the worker used
    in the turn, ``idle_cpu_s`` what it used between its last turn and this one: threads that
    spin while others are measured show there. ``latency_ms``: on a GPU, where ``median_ms`` is
    of calls enqueued one behind the other, that of calls waited for one by one.
    """

    median_ms: float
    calls: int
    cpu_s: float
    idle_cpu_s: float
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Close:
    """Nothing more to do."""


Message = MakeReference | ReferenceMade | Build | Built | Refused | Turn | TurnDone | Close
_KINDS: dict[str, type[Message]] = {
    cls.__name__: cls
    for cls in (MakeReference, ReferenceMade, Build, Built, Refused, Turn, TurnDone, Close)
}


def encode(message: Message) -> bytes:
    """The message as JSON bytes."""
    return json.dumps({"kind": type(message).__name__, **asdict(message)}).encode()


def decode(data: bytes) -> Message:
    """The message in ``data``.

    Raises:
        ValueError: ``data`` is no message of this protocol.
    """
    fields = json.loads(data)
    if not isinstance(fields, dict) or fields.get("kind") not in _KINDS:
        raise ValueError(f"not a message of the benchmark protocol: {data[:80]!r}")
    kind = _KINDS[fields.pop("kind")]
    if "source" in fields:
        fields["source"] = ModelSource(**fields["source"])
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(f"{kind.__name__} message with wrong fields: {error}") from error


def send(connection: Connection, message: Message) -> None:
    """Send one message."""
    connection.send_bytes(encode(message))


def receive(connection: Connection) -> Message:
    """Wait for one message. Raises EOFError when the other side is gone."""
    return decode(connection.recv_bytes())
