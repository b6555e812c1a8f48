"""Scores engines on held-out batches: what a budget is kept by."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from torch2rt.capture.captured import CapturedGraph
from torch2rt.engine.engine import Engine
from torch2rt.errors import ConfigError
from torch2rt.inspect.tolerance import relative_error
from torch2rt.inspect.verify import exact_float32, run_engine
from torch2rt.network.network import Network
from torch2rt.quantize.budget import Budget
from torch2rt.quantize.held_out import HeldOut
from torch2rt.quantize.loader import fitting_tensors, pieces

Run: TypeAlias = Callable[[list[torch.Tensor]], list[torch.Tensor]]


class Judge:
    """Scores engines on held-out batches against the model that they were made from."""

    def __init__(
        self, captured: CapturedGraph, network: Network, batches: Sequence[object],
        budget: Budget, example: Sequence[torch.Tensor],
    ) -> None:
        """The model runs where the ``example`` inputs are."""
        device = next((tensor.device for tensor in example), torch.device("cpu"))
        self._captured, self._network, self._budget = captured, network, budget
        self._batches = list(batches)
        self._inputs = [
            [t.detach().to(device) for t in fitting_tensors(
                batch, captured.call_spec, network, f"held-out batch {number}"
            )]
            for number, batch in enumerate(self._batches, start=1)
        ]
        with exact_float32():
            self._wanted = [self._outputs(captured.run, inputs) for inputs in self._inputs]
        self.model_score = self._mean(self._wanted)
        if not math.isfinite(self.model_score):
            raise _no_number(self.model_score)

    @property
    def samples(self) -> int:
        """How many samples were held out."""
        return sum(map(_samples, self._inputs))

    @property
    def lowest(self) -> float:
        """The least score within the budget."""
        return self.model_score - self._budget.max_drop

    @property
    def summary(self) -> str:
        """The budget in words."""
        name = "1 - relative error" if self._budget.metric is None else "the metric"
        return (
            f"{name} of the model is {self.model_score:.6g} on {self.samples} samples held out, "
            f"and may be {self.lowest:.6g}"
        )

    def score(self, engine: Engine) -> float:
        """The score of an engine: the lowest number there is, where it is none."""
        score = self._mean([
            self._outputs(lambda tensors: run_engine(engine, tensors), inputs)
            for inputs in self._inputs
        ])
        return score if math.isfinite(score) else -sys.float_info.max

    def inputs(self, samples: int) -> dict[str, torch.Tensor]:
        """So many samples as inputs of the network by name, or as few as it takes."""
        piece = next(pieces(self._inputs[0], self._network))
        dims = [tensor.shape[0] for tensor in self._network.inputs.values() if tensor.rank]
        if dims and not any(isinstance(dim, int) for dim in dims) and len(set(dims)) == 1:
            low, _ = self._network.symbols.get(str(dims[0]), (1, 0))
            piece = [tensor[: max(low, samples)] for tensor in piece]
        return dict(zip(self._network.inputs, piece, strict=True))

    def _outputs(self, run: Run, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Outputs for a batch, which is run in pieces where the network takes no such batch."""
        count, split = _samples(inputs), list(pieces(inputs, self._network))
        parts = [[output.cpu() for output in run(piece)] for piece in split]
        if len(split) == 1 and _samples(split[0]) == count:
            return parts[0]
        return [
            torch.cat(outputs)[:count] if outputs[0].dim() else outputs[0]
            for outputs in zip(*parts, strict=True)
        ]

    def _mean(self, outputs: Sequence[list[torch.Tensor]]) -> float:
        weights = [_samples(inputs) for inputs in self._inputs]
        scores = [self._score_of(number, found) for number, found in enumerate(outputs)]
        return sum(s * w for s, w in zip(scores, weights, strict=True)) / sum(weights)

    def _score_of(self, number: int, outputs: list[torch.Tensor]) -> float:
        metric = self._budget.metric
        if metric is None:
            return closeness(outputs, self._wanted[number])
        rebuilt = self._captured.output_spec.rebuild(outputs)
        found = metric(rebuilt, self._batches[number])
        try:
            return float(found)
        except (TypeError, ValueError) as error:
            raise _no_number(found) from error


def judge_of(
    captured: CapturedGraph, network: Network, held: HeldOut | None, budget: Budget | None,
    example: Sequence[torch.Tensor],
) -> Judge | None:
    """The judge of a budget, None without one."""
    if held is None or budget is None:
        return None
    return Judge(captured, network, held.batches, budget, example)


def closeness(outputs: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """1 minus the mean relative error; of integers, the share that is equal."""
    errors = [
        relative_error(got, want) if want.is_floating_point()
        else float((got != want).double().mean()) if want.numel() else 0.0
        for got, want in zip(outputs, wanted, strict=True)
    ]
    # Beyond all bounds is as bad as none of it right, many times over.
    return 1.0 - sum(min(error, 1e6) for error in errors) / max(1, len(errors))


def _samples(tensors: Sequence[torch.Tensor]) -> int:
    return next((int(tensor.shape[0]) for tensor in tensors if tensor.dim()), 1)


def _no_number(found: object) -> ConfigError:
    return ConfigError(
        option="metric", value=found, reason="it returned no finite number",
        remedy="Return one number per batch, higher being better.",
    )
