"""What verification raises: the output that is off, and the layer that makes it so."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from torch2rt.engine.engine import Engine
from torch2rt.errors import VerificationError
from torch2rt.inspect.bisect import StepError, first_off


def failure(
    engine: Engine, inputs: Sequence[torch.Tensor], what: str, output: str, error: float,
    allowed: float,
) -> VerificationError:
    """The error that names the first layer that is off, or the worst one."""
    found = first_off(engine, inputs)
    return VerificationError(
        inputs=what, output=output, error=error, allowed=allowed,
        finding="First layer that is off" if found and found.is_off else
        "No layer is off by itself, so errors add up or layers disturb each other; the worst is",
        layer_error=found.error if found else 0.0, **step_facts(found),
    )


def step_facts(step: StepError | None) -> dict[str, str]:
    """What errors tell of a step."""
    if step is None:
        return {"layer": "none", "kind": "", "tactic": "", "where": ""}
    return {"layer": step.layer, "kind": step.kind, "tactic": step.tactic, "where": step.where}
