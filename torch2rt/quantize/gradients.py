"""Gradients of a network's outputs at its tensors: what errors in tensors do to the outputs.

With random numbers v, one for each value of the outputs, of mean 0 and variance 1, an error e in
a tensor moves sum(v * y) by sum(g * e), to first order, g being the gradient of sum(v * y) there.
The mean of its square is the mean of ||dy||^2: one pass back tells it of all errors in all
tensors. Outputs count by their norm, sample by sample, so that faint samples count like others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from torch2rt.backends.reference.executor import NetworkRunner
from torch2rt.network.dim import is_symbol
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network

Results = tuple[torch.Tensor, ...]

_AT_ONCE = 4  # samples, as all tensors of a run are kept
_SMALLEST = 1e-30


class NoGradientsError(Exception):
    """An operation of the network cannot be differentiated, or runs out of memory so."""


@dataclass(frozen=True)
class Sensed:
    """Some samples: tensors by name, and what the layers were given that wrote them.

    ``gradients`` are of several random sums, each by name.
    """

    values: Mapping[str, torch.Tensor]
    gradients: Sequence[Mapping[str, torch.Tensor]]
    given: Mapping[str, Results]

    def noise(self, errors: Mapping[str, torch.Tensor]) -> float:
        """What errors in tensors make together of the outputs' square, summed over samples."""
        squares = 0.0
        for gradients in self.gradients:
            moved = [
                (gradients[name] * error).flatten(1).double().sum(1)
                for name, error in errors.items() if name in gradients
            ]
            squares += float(torch.stack(moved).sum(0).square().sum()) if moved else 0.0
        return squares / max(1, len(self.gradients))


def sense(
    network: Network, inputs: Mapping[str, torch.Tensor], names: Collection[str],
    *, sums: int = 1, device: torch.device | None = None,
) -> Iterator[Sensed]:
    """The tensors of these names, a few samples at a time, with gradients of so many sums.

    One sum is enough where many samples are alike; where one of them may make most of the noise,
    several are less likely to miss it.
    """
    runner, random = NetworkRunner(network, device=device), torch.Generator().manual_seed(0)
    for piece in pieces_of(network, inputs):
        with torch.inference_mode(False), torch.enable_grad():
            values: dict[str, torch.Tensor] = {}
            given: dict[str, Results] = {}
            # Tensors made in inference mode have no gradients; copies have.
            leaves = {name: _followed(value.clone()) for name, value in piece.items()}
            try:
                outputs = runner.run(
                    leaves, decide=_keeping(names, values, given), has_gradients=True
                )
                values.update({name: value for name, value in leaves.items() if name in names})
                gradients = _gradients(outputs, values, sums, random)
            except RuntimeError as error:  # torch has no class for it
                raise NoGradientsError(str(error)) from error
            yield Sensed(
                {name: value.detach() for name, value in values.items()}, gradients,
                {name: tuple(x.detach() for x in results) for name, results in given.items()},
            )


def _keeping(
    names: Collection[str], values: dict[str, torch.Tensor], given: dict[str, Results]
) -> Callable[[Layer, Results, Results], Results]:
    """What notes results of these names, and makes gradients start where they can."""

    def keep(layer: Layer, inputs: Results, results: Results) -> Results:
        followed = tuple(map(_followed, results))
        for output, value in zip(layer.outputs, followed, strict=True):
            if output.name in names:
                values[output.name] = value
                given[output.name] = inputs
        return followed

    return keep


def _followed(value: torch.Tensor) -> torch.Tensor:
    return value if value.requires_grad or not value.is_floating_point() else (
        value.requires_grad_()
    )


def _gradients(
    outputs: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor], sums: int,
    random: torch.Generator,
) -> list[dict[str, torch.Tensor]]:
    """Gradients of random sums over all outputs, of the tensors that these depend on."""
    followed = [output for output in outputs.values() if output.requires_grad]
    wanted = [name for name, value in values.items() if value.requires_grad]
    if not followed or not wanted:
        return []
    gradients = []
    for number in range(sums):
        found = torch.autograd.grad(
            torch.stack([_random_sum(output, random) for output in followed]).sum(),
            [values[name] for name in wanted], allow_unused=True, retain_graph=number + 1 < sums,
        )
        gradients.append({
            name: gradient for name, gradient in zip(wanted, found, strict=True)
            if gradient is not None
        })
    return gradients


def _random_sum(output: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Of a tensor whose samples have the norm 1."""
    rows = output.flatten(1) if output.dim() > 1 else output.reshape(1, -1)
    factors = torch.randn(rows.shape, generator=random, device="cpu").to(rows)
    norms = rows.detach().norm(dim=1, keepdim=True).clamp(_SMALLEST)
    weighted: torch.Tensor = rows * factors / norms
    return weighted.sum()


def pieces_of(
    network: Network, inputs: Mapping[str, torch.Tensor]
) -> Iterator[dict[str, torch.Tensor]]:
    """Samples a few at a time, where the first axis of all inputs is one symbol; else all."""
    firsts = {tensor.shape[0] if tensor.rank else 1 for tensor in network.inputs.values()}
    if len(firsts) != 1 or not is_symbol(next(iter(firsts))):
        yield dict(inputs)
        return
    count = len(next(iter(inputs.values())))
    least, _ = network.symbols.get(str(next(iter(firsts))), (1, 0))
    for start in range(0, count, max(_AT_ONCE, least)):
        piece = {name: x[start : start + max(_AT_ONCE, least)] for name, x in inputs.items()}
        if len(next(iter(piece.values()))) >= least:
            yield piece
