"""The whole pipeline: right, idempotent, independent of the order of equal fusions."""

import random
from pathlib import Path

import pytest
import torch
from fusion_testing import assert_same_outputs, network_of, outputs_of, pointwise
from hypothesis import HealthCheck, given, settings
from layer_testing import lower_model
from random_networks import networks
from torch import nn

from torch2rt.backends.reference.executor import run_network
from torch2rt.errors import NetworkError
from torch2rt.fusions.base import Fuse, all_fusions, fusions_between
from torch2rt.network.network import Network
from torch2rt.network.text import text
from torch2rt.network.verify import verify
from torch2rt.passes.base import Log, Pass, run_passes
from torch2rt.passes.pipeline import default_passes, optimize

GOLDEN = Path(__file__).parents[1] / "golden"


class ConvNormRelu(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int = 3, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = ConvNormRelu(4, 4)
        self.second = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.shortcut = nn.Sequential(nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = ConvNormRelu(4, 4, 1)
        self.three = nn.Sequential(ConvNormRelu(4, 3, 1), ConvNormRelu(3, 4))
        self.five = nn.Sequential(ConvNormRelu(4, 2, 1), ConvNormRelu(2, 4))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvNormRelu(4, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1) * 2


class DenseBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(4 + 2 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(4 + 2 * i, 2, 3, padding=1) for i in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [x]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(torch.relu(norm(torch.cat(features, 1)))))
        return torch.cat(features, 1)


IMAGE, ROWS = (2, 4, 6, 6), (5, 4)
MODELS: dict[str, tuple[nn.Module, tuple[int, ...], list[str]]] = {
    "conv_norm_relu": (ConvNormRelu(4, 8), IMAGE, ["convolution"]),
    "grouped_conv_norm": (ConvNormRelu(4, 8, groups=2), IMAGE, ["convolution"]),
    "depthwise_conv_norm": (ConvNormRelu(4, 4, groups=4), IMAGE, ["convolution"]),
    "conv1d_norm": (nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)), (2, 4, 9),
                    ["convolution"]),
    "linear_norm": (nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.SiLU()), ROWS, ["matmul"]),
    "deconv_norm": (
        nn.Sequential(nn.ConvTranspose2d(4, 6, 2, 2, groups=2), nn.BatchNorm2d(6), nn.Hardtanh()),
        IMAGE, ["deconvolution"],
    ),
    "norm_linear": (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 6)), ROWS, ["matmul"]),
    "norm_conv": (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)), IMAGE, ["convolution"]),
    "norm_padded_conv": (
        nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)), IMAGE,
        ["pointwise", "convolution"],
    ),
    "zero_pad_conv": (nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(4, 6, 3)), IMAGE, ["convolution"]),
    "residual": (Residual(), IMAGE, ["convolution"] * 3),
    "inception": (Inception(), IMAGE, []),
    "dense_block": (DenseBlock(), IMAGE, []),
    "dropout": (nn.Sequential(nn.Dropout(), nn.Linear(4, 4), nn.Dropout(), nn.ReLU()), ROWS,
                ["matmul"]),
    "identity": (nn.Sequential(nn.Identity(), nn.Dropout()), ROWS, []),
}


def randomized(model: nn.Module) -> nn.Module:
    """Evaluation mode, with statistics and affine terms that a wrong fold would show."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features)
            module.running_var = torch.rand(module.num_features) + 0.5
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias)
    return model.eval()


def lowered(name: str) -> tuple[nn.Module, torch.Tensor, Network]:
    model, shape, _ = MODELS[name]
    x = torch.randn(shape)
    return randomized(model), x, lower_model(model, x).network


@pytest.mark.parametrize("name", MODELS)
def test_models_keep_their_outputs(name: str) -> None:
    model, x, network = lowered(name)
    optimize(network)
    kinds = MODELS[name][2]
    if kinds:
        assert [layer.kind.name for layer in network.layers] == kinds, text(network)
    (binding,) = network.inputs
    (got,) = run_network(network, {binding: x.double()}, dtype=torch.float64).values()
    with torch.no_grad():
        want = model.double()(x.double())
    model.float()
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-5)


def test_merged_convolutions_and_flat_concat_of_an_inception_block() -> None:
    _, _, network = lowered("inception")
    optimize(network)
    kinds = [layer.kind.name for layer in network.layers]
    assert kinds.count("convolution") == 4
    assert kinds.count("slice") == 3


def test_a_dense_block_is_a_chain_of_concats() -> None:
    _, _, network = lowered("dense_block")
    optimize(network)
    concats = [layer for layer in network.layers if layer.kind.name == "concat"]
    assert [len(layer.inputs) for layer in concats] == [2, 2, 2]
    assert concats[2].inputs[0] is concats[1].output


@pytest.mark.parametrize("name", ["conv_norm_relu", "residual", "inception"])
def test_golden_texts(name: str) -> None:
    _, _, network = lowered(name)
    network.name = name
    optimize(network)
    assert text(network) == (GOLDEN / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", MODELS)
def test_every_pass_is_idempotent(name: str) -> None:
    _, _, network = lowered(name)

    def run_again(step: Pass, network: Network) -> None:
        once = text(network)
        assert not step.run(network, Log()), step.name
        assert text(network) == once, step.name

    run_passes(network, default_passes(), after_each=run_again)


@pytest.mark.parametrize("name", MODELS)
def test_the_pipeline_is_idempotent(name: str) -> None:
    _, _, network = lowered(name)
    optimize(network)
    once = text(network)
    optimize(network)
    assert text(network) == once


@pytest.mark.parametrize("name", ["residual", "inception", "dense_block", "norm_linear"])
def test_equal_priorities_may_run_in_any_order(name: str) -> None:
    torch.manual_seed(1)
    _, _, network = lowered(name)
    optimize(network)
    for seed in range(3):
        torch.manual_seed(1)
        _, _, other = lowered(name)
        run_passes(other, [shuffled(step, seed) for step in default_passes()])
        assert text(other) == text(network)


def shuffled(step: Pass, seed: int) -> Pass:
    """The pass with fusions of equal priority in another order."""
    if not isinstance(step, Fuse):
        return step
    fusions = list(step.fusions)
    random.Random(seed).shuffle(fusions)
    return Fuse(step.name, tuple(sorted(fusions, key=lambda fusion: fusion.priority)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks())
def test_random_networks_keep_their_outputs(network: Network) -> None:
    verify(network)
    source = text(network)
    before = outputs_of(network)
    optimize(network)
    assert_same_outputs(before, outputs_of(network))
    once = text(network)
    optimize(network)
    assert text(network) == once, f"not idempotent on\n{source}"


def test_refusals_name_layer_and_reason() -> None:
    source = (
        "input %x: float32[2,8]\nconstant @w: float32[4,8]\n"
        '%a = matmul(%x, @w) {"transpose_b":true} -> float32[2,4]\n'
        + pointwise("b", "%a", "relu(i0)", "float32[2,4]") + "output y = %b\noutput a = %a\n"
    )
    log = optimize(network_of(source))
    reject = log.rejected["fuse_epilogue", "b"]
    assert (reject.layer, reject.where, reject.reason) == ("b", "b", "a is a network output")


def test_refusals_of_layers_that_fused_later_are_forgotten() -> None:
    _, _, network = lowered("residual")
    log = optimize(network)
    assert not log.rejected
    fired = {fired.rule for fired in log.fired}
    assert {"fuse_epilogue", "scale_into_weights", "simplify_epilogue"} <= fired
    assert any("first.0 + first.1" in fired.where for fired in log.fired)


def test_a_pass_that_breaks_the_network_is_named() -> None:
    class Breaks(Pass):
        name = "breaks"

        def run(self, network: Network, log: Log) -> bool:
            network.layers[0].output.users.clear()
            return True

    _, _, network = lowered("residual")
    with pytest.raises(NetworkError, match=r"after pass breaks \(passes so far: breaks\)"):
        run_passes(network, [Breaks()])


def test_fusions_are_in_order_and_every_one_is_in_a_stage() -> None:
    fusions = all_fusions()
    assert [f.priority for f in fusions] == sorted(f.priority for f in fusions)
    assert fusions_between(0, 100) == fusions
    assert len({fusion.name for fusion in fusions}) == len(fusions)
    assert all(fusion.equation and type(fusion).__doc__ for fusion in fusions)


def test_fusions_that_undo_each_other_are_reported() -> None:
    class Restless(Fuse):
        def _sweep(self, fusion: object, network: Network, log: Log) -> bool:
            return True

    with pytest.raises(RuntimeError, match="they undo each other"):
        Restless("restless", all_fusions()[:1]).run(network_of("input %x: float32[1]\n"), Log())
