"""Checks a converter rule and the kinds it produces against eager PyTorch.

    check_rule(torch.nn.Linear(4, 5), torch.randn(2, 4))
    check_rule(lambda x: x.amax(1), torch.randn(2, 4), kinds={"reduce"})

Each call exports and lowers the model in float64 and in float32, with static shapes and with a
dynamic batch, runs the network through the reference executor and compares it with eager.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from torch2rt.backends.reference.executor import bind_symbols, run_network
from torch2rt.layers.registry import attributes_to_json, kind_from_json
from torch2rt.layers.specialize import specialize_kind, specialize_type
from torch2rt.lower import Lowered, lower
from torch2rt.network.dim import SymbolicDim
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import TensorType
from torch2rt.torch_values import dtype_from_torch

Model = nn.Module | Callable[..., Any]


def check_rule(
    model: Model,
    *inputs: torch.Tensor,
    dynamic: bool = True,
    tolerance: float = 1e-10,
    tolerance32: float = 1e-5,
    kinds: Collection[str] | None = None,
) -> Network:
    """Assert that the model lowers without fallback and that its network gives eager's results.

    ``model`` is a module, or a function of the inputs. ``dynamic`` also captures it with a
    dynamic axis 0 of every input whose axis 0 is as long as the first input's (at least 2), and
    runs that network at another length too. ``tolerance`` bounds the relative error in float64
    (integers and booleans must be equal), ``tolerance32`` that in float32. ``kinds``, if given,
    must be the kinds of layers of the network. Returns the float32 network, static.
    """
    module = as_module(model)
    double = copy.deepcopy(module).double()
    wide = [as_double(x) for x in inputs]
    _check_static(double, wide, tolerance)
    network = _check_static(module, list(inputs), tolerance32)
    if kinds is not None:
        found = {layer.kind.name for layer in network.layers}
        assert found == set(kinds), f"layers are of kinds {found}, expected {set(kinds)}"
    if dynamic:
        _check_dynamic(double, wide, tolerance)
    return network


def as_module(model: Model) -> nn.Module:
    """The module in evaluation mode; a function becomes one."""
    return (model if isinstance(model, nn.Module) else _FunctionModule(model)).eval()


def as_double(x: torch.Tensor) -> torch.Tensor:
    """Floats as float64, anything else as it is."""
    return x.double() if x.is_floating_point() else x


def lower_model(model: Model, *inputs: torch.Tensor, dynamic: bool = False) -> Lowered:
    """Export and lower a model whose graph needs no functionalisation."""
    module = as_module(model)
    shapes: Any = _dynamic_shapes(inputs) if dynamic else None
    parameters = list(inspect.signature(module.forward).parameters.values())
    if dynamic and parameters[-1].kind is inspect.Parameter.VAR_POSITIONAL:
        named = len(parameters) - 1  # *inputs counts as one parameter that is a tuple
        shapes = (*shapes[:named], shapes[named:])
    exported = torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
    return lower(captured_graph(exported))  # type: ignore[arg-type]


def captured_graph(exported: torch.export.ExportedProgram) -> SimpleNamespace:
    """What `lower` reads of a captured graph, straight from an exported program."""
    signature = exported.graph_signature
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    stored = {**exported.state_dict, **exported.constants}
    nodes = {node.name: node for node in exported.graph.nodes}
    return SimpleNamespace(
        graph_module=exported.graph_module,
        inputs=[SimpleNamespace(name=n, placeholder=n) for n in signature.user_inputs],
        state={placeholder: (fqn, stored[fqn]) for placeholder, fqn in names.items()},
        outputs=[
            SimpleNamespace(name=f"output{i}", node=nodes[str(name)])
            for i, name in enumerate(signature.user_outputs)
        ],
        symbols={
            str(symbol): SimpleNamespace(minimum=2, maximum=None)
            for symbol in exported.range_constraints
        },
    )


def run_and_compare(
    lowered: Lowered, model: Model, inputs: list[torch.Tensor], tolerance: float
) -> None:
    """Run a network through the references and compare results and types with eager."""
    assert not lowered.fallbacks, "\n".join(str(node) for node in lowered.fallbacks)
    network = lowered.network
    named = dict(zip(network.inputs, inputs, strict=True))
    symbols = bind_symbols(network, {name: tuple(x.shape) for name, x in named.items()})

    def observe(
        layer: Layer, arguments: tuple[torch.Tensor, ...], results: tuple[torch.Tensor, ...]
    ) -> None:
        kind = specialize_kind(layer.kind, symbols)
        main = [_type(x) for x in arguments[: len(layer.main_inputs)]]
        inferred = kind.infer(main)
        declared = [specialize_type(tensor.type, symbols) for tensor in layer.outputs]
        for want, static, got in zip(declared, inferred, results, strict=True):
            assert _type(got) == want == static, f"{layer}: {_type(got)}, {want}, {static}"
        raw = kind.reference(list(arguments[: len(layer.main_inputs)]))
        for want, value in zip(inferred, raw, strict=True):
            assert tuple(value.shape) == want.shape, f"{layer}: reference gives {value.shape}"
        assert kind.flops(main, inferred) >= 0
        assert kind_from_json(layer.kind.name, attributes_to_json(layer.kind)) == layer.kind

    got = list(run_network(network, named, observe=observe).values())
    with torch.no_grad():
        expected = model(*(x.clone() for x in inputs))
    wanted = list(expected) if isinstance(expected, tuple | list) else [expected]
    assert len(got) == len(wanted)
    for index, (value, want) in enumerate(zip(got, wanted, strict=True)):
        assert_close(value, want, tolerance, f"output {index}")


def assert_close(got: torch.Tensor, want: torch.Tensor, tolerance: float, what: str) -> None:
    """Same shape and dtype, and close: relative to the largest magnitude expected."""
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, not {tuple(want.shape)}"
    assert got.dtype == want.dtype, f"{what}: dtype {got.dtype}, expected {want.dtype}"
    if not want.is_floating_point():
        assert torch.equal(got, want), f"{what} differs:\n{got}\n{want}"
        return
    finite = want[want.isfinite()]
    scale = max(1.0, float(finite.abs().max())) if finite.numel() else 1.0
    torch.testing.assert_close(
        got, want, rtol=0, atol=tolerance * scale, equal_nan=True, msg=lambda m: f"{what}: {m}"
    )


def _check_static(model: nn.Module, inputs: list[torch.Tensor], tolerance: float) -> Network:
    lowered = lower_model(model, *inputs)
    run_and_compare(lowered, model, inputs, tolerance)
    return lowered.network


def _check_dynamic(model: nn.Module, inputs: list[torch.Tensor], tolerance: float) -> None:
    lowered = lower_model(model, *inputs, dynamic=True)
    first = next(iter(lowered.network.inputs.values()))
    assert isinstance(first.shape[0], SymbolicDim), f"the batch of {first} is not dynamic"
    run_and_compare(lowered, model, inputs, tolerance)
    dynamic = _dynamic_shapes(inputs)
    longer = [
        torch.cat([x, x.flip(0)[:1]]) if shape else x
        for x, shape in zip(inputs, dynamic, strict=True)
    ]
    run_and_compare(lowered, model, longer, tolerance)


def _dynamic_shapes(inputs: Collection[torch.Tensor]) -> tuple[dict[int, Any], ...]:
    """Axis 0 of every input that is as long there as the first one."""
    batch = next(iter(inputs)).shape[0]
    assert batch > 1, "a dynamic axis must not have length 1 at capture"
    return tuple(
        {0: torch.export.Dim.AUTO} if x.ndim and x.shape[0] == batch else {} for x in inputs
    )


def _type(x: torch.Tensor) -> TensorType:
    return TensorType(tuple(x.shape), dtype_from_torch(x.dtype))


class _FunctionModule(nn.Module):
    """A module around a function of tensors."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(*inputs)
