"""Partial capture: a model whose Python decides by tensor values, in several graphs.

torch.compile follows the model's Python and hands over each stretch of tensor code between two
decisions; every such piece can become an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import fx, nn

from torch2rt.capture.copying import attributes, eval_copy

Runner: TypeAlias = Callable[..., Sequence[torch.Tensor]]
ConvertPiece: TypeAlias = Callable[["Piece", tuple[torch.Tensor, ...]], Runner]


class Piece(nn.Module):
    """One piece of a model: flat tensors -> a tuple of tensors.

    torch.compile passes the model's own tensors as arguments; ``held`` (position -> name and
    tensor) are kept here instead, so that they are weights to whoever converts the piece.
    """

    def __init__(
        self, graph_module: fx.GraphModule, held: Mapping[int, tuple[str, torch.Tensor]]
    ) -> None:
        super().__init__()
        self.graph_module = graph_module
        self.positions: dict[int, str] = {}
        for position, (name, tensor) in held.items():
            own = f"{name.replace('.', '_')}_{position}"
            self.positions[position] = own
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(own, tensor)
            else:
                self.register_buffer(own, tensor, persistent=False)

    def forward(self, *tensors: torch.Tensor) -> Any:
        """The piece's inputs, without the tensors it holds -> its outputs."""
        remaining = iter(tensors)
        count = len(tensors) + len(self.positions)
        return self.graph_module(*(
            self.get_parameter_or_buffer(self.positions[position])
            if position in self.positions else next(remaining) for position in range(count)
        ))

    def get_parameter_or_buffer(self, name: str) -> torch.Tensor:
        """A held tensor by its name."""
        held = self._parameters.get(name)
        return self.get_buffer(name) if held is None else held


class PartialModule(nn.Module):
    """A model run as pieces, each through what ``convert_piece(piece, example_tensors)`` returns.

        partial = PartialModule(model, lambda piece, tensors: torch2rt.convert(piece, tensors))
        y = partial(x)

    The model runs in eval mode and without gradients. Pieces are made at the first call that needs
    them and again for other shapes; ``pieces`` lists those made so far. An error of
    ``convert_piece`` surfaces from that call.
    """

    def __init__(self, model: nn.Module, convert_piece: ConvertPiece) -> None:
        super().__init__()
        self.model = eval_copy(model)
        self.pieces: list[Piece] = []
        self._convert_piece = convert_piece
        self._compiled = torch.compile(self.model, backend=self._take_piece, dynamic=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns."""
        with torch.no_grad():
            return self._compiled(*args, **kwargs)

    def _take_piece(self, graph_module: fx.GraphModule, examples: Sequence[Any]) -> Runner:
        own = {
            id(value): name for name, value in (*attributes(self.model).items(), *self._tensors())
            if isinstance(value, torch.Tensor)
        }
        held = {
            position: (own[id(value)], value) for position, value in enumerate(examples)
            if id(value) in own
        }
        inputs = tuple(value for value in examples if id(value) not in own)
        if not inputs or not all(isinstance(value, torch.Tensor) for value in inputs):
            return graph_module.forward  # no tensors to compute from: nothing to convert
        piece = Piece(graph_module, held)
        taken = [position for position in range(len(examples)) if position not in held]
        run: Runner | None = None

        def run_piece(*arguments: torch.Tensor) -> Sequence[torch.Tensor]:
            nonlocal run
            tensors = tuple(arguments[position] for position in taken)
            if run is None:  # not before: torch.export must not run inside of torch.compile
                run = self._convert_piece(piece, tensors)
                self.pieces.append(piece)
            return run(*tensors)

        return run_piece

    def _tensors(self) -> list[tuple[str, torch.Tensor]]:
        return [*self.model.named_parameters(), *self.model.named_buffers()]
