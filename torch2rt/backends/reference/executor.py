"""Runs a whole network layer by layer through each layer's `reference`: the oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from torch2rt.layers.specialize import specialize_kind, specialize_type
from torch2rt.network.dim import is_symbol, substitute
from torch2rt.network.dtype import DType
from torch2rt.network.layer import Layer, run_reference
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.torch_values import constant_to_torch

Observer = Callable[[Layer, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]], None]
Decider = Callable[
    [Layer, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]
]


def run_network(
    network: Network,
    inputs: Mapping[str, torch.Tensor],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    observe: Observer | None = None,
) -> dict[str, torch.Tensor]:
    """Outputs by name for inputs by name, in torch, on the CPU or the ``device`` of the inputs.

    ``dtype=torch.float64`` computes every float in double precision, and so do float64 inputs in
    place of others. ``observe`` is called after each layer with its inputs and outputs.
    """
    return NetworkRunner(network, dtype=dtype, device=device).run(inputs, observe=observe)


class NetworkRunner:
    """Runs one network many times: constants are converted and moved to the device once.

    The network must not change meanwhile.
    """

    def __init__(
        self, network: Network, *, dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.network = network
        self.dtype = dtype
        self.device = device if device is not None else torch.device("cpu")
        self._constants: dict[Tensor, torch.Tensor] = {}

    def run(
        self, inputs: Mapping[str, torch.Tensor], *, observe: Observer | None = None,
        decide: Decider | None = None, has_gradients: bool = False,
    ) -> dict[str, torch.Tensor]:
        """Outputs by name for inputs by name, as `run_network`.

        ``decide`` is called after each layer with its inputs and outputs and gives the outputs
        that later layers are to read. With ``has_gradients`` autograd follows what is computed.
        """
        network = self.network
        symbols = bind_symbols(network, {name: tuple(x.shape) for name, x in inputs.items()})
        values: dict[Tensor, torch.Tensor] = {
            tensor: inputs[name] for name, tensor in network.inputs.items()
        }
        remaining = {tensor: len(tensor.users) for tensor in network.tensors}
        kept = set(network.outputs.values())
        is_exact = self.dtype is torch.float64 or any(
            x.dtype is torch.float64 and network.inputs[name].dtype is not DType.FLOAT64
            for name, x in inputs.items()
        )
        with torch.set_grad_enabled(has_gradients), self.device:
            for layer in network.layers:
                arguments = tuple(self._read(tensor, values) for tensor in layer.inputs)
                results = run_reference(
                    specialize_kind(layer.kind, symbols), layer.epilogue, arguments,
                    [specialize_type(output.type, symbols) for output in layer.outputs],
                    is_exact=is_exact,
                )
                if decide is not None:
                    results = decide(layer, arguments, results)
                if observe is not None:
                    observe(layer, arguments, results)
                values.update(zip(layer.outputs, results, strict=True))
                for tensor in dict.fromkeys(layer.inputs):
                    remaining[tensor] -= 1
                    if remaining[tensor] == 0 and tensor not in kept:
                        values.pop(tensor, None)
            return {name: self._read(t, values) for name, t in network.outputs.items()}

    def _read(self, tensor: Tensor, values: Mapping[Tensor, torch.Tensor]) -> torch.Tensor:
        if tensor.data is None:
            return self._cast(values[tensor])
        if tensor not in self._constants:
            value = constant_to_torch(tensor.data, tensor.dtype).to(self.device)
            self._constants[tensor] = self._cast(value)
        return self._constants[tensor]

    def _cast(self, value: torch.Tensor) -> torch.Tensor:
        if self.dtype is None or not value.is_floating_point():
            return value
        return value.to(self.dtype)


def bind_symbols(network: Network, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Values of the network's symbols for input shapes by name.

    ValueError when a shape does not fit the network's input.
    """
    symbols: dict[str, int] = {}
    for name, tensor in network.inputs.items():
        for dim, size in zip(tensor.shape, shapes[name], strict=True):
            if is_symbol(dim):
                symbols.setdefault(str(dim), size)
    for name, tensor in network.inputs.items():
        expected = tuple(substitute(dim, symbols) for dim in tensor.shape)
        if expected != tuple(shapes[name]):
            raise ValueError(f"input {name} has shape {shapes[name]}, expected {expected}")
    return symbols
