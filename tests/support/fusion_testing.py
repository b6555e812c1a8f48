"""Checks of fusions and passes on networks written as text.

    network = check_fires(FuseEpilogue(), "input %x: float32[2,3] ...", kinds=["matmul"])
    check_refused(FuseEpilogue(), "...", reason="network output")

Constants get random data of the declared type. Each check runs the network in float64 before and
after, verifies it, and runs the fusion a second time, which must change nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from torch2rt.backends.reference.executor import run_network
from torch2rt.fusions.base import Fuse, Fusion
from torch2rt.layers.registry import parse_tensor_type
from torch2rt.network.dim import substitute
from torch2rt.network.dtype import Array, DType
from torch2rt.network.layer import Origin
from torch2rt.network.network import Network
from torch2rt.network.tensor import TensorType
from torch2rt.network.text import parse, text
from torch2rt.network.verify import verify
from torch2rt.passes.base import Log, Pass

_CONSTANT = re.compile(r"\s*constant @(\S+): (\S+)")
# float32 constants computed in float64 and rounded once.
TOLERANCE = 2e-6
SYMBOLS = {"s0": 3, "s1": 5}


def network_of(source: str, constants: Mapping[str, Array] | None = None) -> Network:
    """A network from text; constants not given are random, floats between 0.5 and 1.5 or less."""
    data = dict(constants or {})
    for match in filter(None, map(_CONSTANT.match, source.splitlines())):
        if match[1] not in data:
            data[match[1]] = random_array(parse_tensor_type(match[2]))
    network = parse(source, data)
    for layer in network.layers:
        network.set_origins(layer, [Origin(layer.name, layer.kind.name)])
    return network


def pointwise(output: str, inputs: str, expression: str, type: str) -> str:
    """A line of text: ``pointwise("y", "%a, @b", "add(i0,i1)", "float32[2,3]")``."""
    dtype = type.partition("[")[0]
    return (
        f'%{output} = pointwise({inputs}) {{"expression":{{"expression":"{expression}"}},'
        f'"dtype":{{"dtype":"{dtype}"}}}} -> {type}\n'
    )


def convolution(
    output: str, inputs: str, type: str, *, stride: int = 1, padding: int = 0, groups: int = 1,
    epilogue: str = "",
) -> str:
    """A line of text: a convolution over two axes."""
    return (
        f'%{output} = convolution({inputs}) {{"stride":[{stride},{stride}],'
        f'"padding_before":[{padding},{padding}],"padding_after":[{padding},{padding}],'
        f'"dilation":[1,1],"groups":{groups}}}'
        + (f" epilogue {epilogue}" if epilogue else "") + f" -> {type}\n"
    )


def random_array(type: TensorType) -> Array:
    """Data of a type, as a constant stores it."""
    shape = tuple(substitute(dim, SYMBOLS) for dim in type.shape)
    generator = np.random.default_rng(len(shape) * 7 + sum(shape))
    if type.dtype is DType.BOOL:
        return np.asarray(generator.random(shape) > 0.3)
    if not type.dtype.is_float:
        return generator.integers(0, 3, shape).astype(type.dtype.numpy)
    values = np.asarray(generator.uniform(-1.5, 1.5, shape), np.float32)
    if type.dtype is DType.BFLOAT16:
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(type.dtype.numpy)


def outputs_of(network: Network) -> dict[str, torch.Tensor]:
    """Outputs in float64 for random inputs."""
    inputs = {}
    for name, tensor in network.inputs.items():
        value = torch.from_numpy(random_array(TensorType(tensor.shape, _plain(tensor.dtype))))
        inputs[name] = value.double() if value.is_floating_point() else value
    return run_network(network, inputs, dtype=torch.float64)


def _plain(dtype: DType) -> DType:
    return DType.FLOAT32 if dtype.is_stored_as_bits else dtype


def assert_same_outputs(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]
) -> None:
    """Equal names, shapes, dtypes and, to rounding of constants, values."""
    assert before.keys() == after.keys()
    for name, want in before.items():
        got = after[name]
        assert got.shape == want.shape, f"{name}: {tuple(got.shape)}, not {tuple(want.shape)}"
        assert got.dtype == want.dtype, f"{name}: {got.dtype}, not {want.dtype}"
        scale = max(1.0, float(want.double().abs().max())) if want.numel() else 1.0
        torch.testing.assert_close(
            got.double(), want.double(), rtol=0, atol=TOLERANCE * scale, equal_nan=True
        )


def check_fires(
    fusion: Fusion[object] | Sequence[Fusion[object]],
    source: str,
    *,
    kinds: Sequence[str] | None = None,
    lines: Sequence[str] = (),
    constants: Mapping[str, Array] | None = None,
    prepare: Callable[[Network], None] | None = None,
) -> Network:
    """Assert that a fusion fires and keeps the outputs, the invariants and all origins.

    ``kinds`` are the kinds of the layers that remain, in order; each of ``lines`` must be part of
    the text that results.
    """
    fusions = tuple(fusion) if isinstance(fusion, Sequence) else (fusion,)
    network = network_of(source, constants)
    if prepare is not None:
        prepare(network)
    origins = {origin for layer in network.layers for origin in layer.origins}
    before = outputs_of(network)
    log = run_twice(Fuse("test", fusions), network)
    assert log.fired, f"did not fire: {log.rejected}"
    assert_same_outputs(before, outputs_of(network))
    assert {origin for layer in network.layers for origin in layer.origins} == origins
    if kinds is not None:
        assert [layer.kind.name for layer in network.layers] == list(kinds), text(network)
    for line in lines:
        assert line in text(network), f"{line} is not in\n{text(network)}"
    return network


def check_refused(
    fusion: Fusion[object], source: str, *, reason: str,
    constants: Mapping[str, Array] | None = None,
) -> None:
    """Assert that a fusion changes nothing and says why; an empty reason: it does not match."""
    network = network_of(source, constants)
    before = text(network)
    log = Log()
    assert not Fuse("test", (fusion,)).run(network, log)
    assert text(network) == before
    reasons = [reject.reason for reject in log.rejected.values()]
    if reason:
        assert any(reason in found for found in reasons), f"no {reason!r} in {reasons}"
    else:
        assert not reasons, f"refused, though it should not match: {reasons}"


def run_twice(step: Pass, network: Network) -> Log:
    """Run a pass, verify, run it again and assert that nothing changes any more."""
    log = Log()
    step.run(network, log)
    verify(network, after=step.name)
    once = text(network)
    assert not step.run(network, Log()), f"{step.name} changes its own result"
    assert text(network) == once
    return log
