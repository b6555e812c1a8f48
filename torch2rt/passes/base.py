"""What a pass is, and how a list of passes runs."""

from __future__ import annotations

import abc
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.verify import verify

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reject:
    """Why something did not fire: the reason, and the layer it is about."""

    reason: str
    layer: str = ""
    rule: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True)
class Fired:
    """A rewrite that happened: the rule, the layer that resulted, and the origins it covers."""

    rule: str
    layer: str
    where: str


@dataclass
class Log:
    """What passes did and refused, for the report."""

    fired: list[Fired] = field(default_factory=list)
    rejected: dict[tuple[str, str], Reject] = field(default_factory=dict)

    def fire(self, rule: str, layer: Layer) -> None:
        """Note a rewrite."""
        self.fired.append(Fired(rule, layer.name, layer.where))

    def reject(self, rule: str, layer: Layer, reason: str) -> None:
        """Note a refusal; the latest reason for a rule and layer is kept."""
        self.rejected[rule, layer.name] = Reject(reason, layer.name, rule, layer.where)

    def forget_removed(self, network: Network) -> None:
        """Drop refusals about layers that were fused after all."""
        alive = {layer.name for layer in network.layers}
        self.rejected = {key: r for key, r in self.rejected.items() if r.layer in alive}


class Pass(abc.ABC):
    """A step over the whole network. Valid network in, valid network out, idempotent."""

    name: ClassVar[str]

    @abc.abstractmethod
    def run(self, network: Network, log: Log) -> bool:
        """Change the network in place; tell whether anything changed."""


def run_passes(
    network: Network,
    passes: Sequence[Pass],
    *,
    log: Log | None = None,
    check: bool = True,
    after_each: Callable[[Pass, Network], None] | None = None,
) -> Log:
    """Run passes in order; with ``check``, verify the network after each.

    NetworkError names the pass that broke an invariant and those before it.
    """
    log = log if log is not None else Log()
    done: list[str] = []
    for step in passes:
        start = time.perf_counter()
        changed = step.run(network, log)
        done.append(step.name)
        logger.debug(
            "pass %s: %s in %.1f ms", step.name, "changed" if changed else "no change",
            (time.perf_counter() - start) * 1e3,
        )
        if check:
            verify(network, after=f"pass {step.name} (passes so far: {', '.join(done)})")
        if after_each is not None:
            after_each(step, network)
    return log
