"""Precision by module path: how patterns are read, what they match, what is refused."""

import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.config import BuildConfig
from torch2rt.errors import ConfigError
from torch2rt.layers.registry import import_all_kinds
from torch2rt.network.layer import Origin
from torch2rt.network.network import Network
from torch2rt.network.text import parse
from torch2rt.quantize.overrides import Overrides, matches, parse_precision


@pytest.fixture
def network() -> Network:
    import_all_kinds()
    made = parse(
        "network n\ninput %x: float32[2,3]\n"
        '%a = softmax(%x) {"axis":1} -> float32[2,3]\n'
        '%b = softmax(%a) {"axis":1} -> float32[2,3]\noutput y = %b\n', {},
    )
    first, second = made.layers
    made.set_origins(first, [Origin("features.0.conv", "conv"), Origin("features.0.norm", "norm")])
    made.set_origins(second, [Origin("head", "linear")])
    return made


def precisions(network: Network, **patterns: str) -> list[str]:
    overrides = parse_precision({k.replace("__", "."): v for k, v in patterns.items()})
    return [overrides.precision_of(layer) for layer in network.layers]


def test_a_plain_precision_is_one_for_everything(network):
    overrides = parse_precision("bf16")
    assert {overrides.precision_of(layer) for layer in network.layers} == {"bf16"}
    assert (overrides.lowest, overrides.half) == ("bf16", "bf16")
    assert Overrides().lowest == "fp32"
    overrides.check_matches(network)


def test_a_pattern_names_a_module_and_what_is_in_it():
    assert matches("features.0", "features.0")
    assert matches("features.0", "features.0.conv.weight")
    assert matches("features.*", "features.7")
    assert matches("*.norm", "features.0.norm")
    assert not matches("features.1", "features.10")
    assert not matches("features", "more.features")


def test_the_first_pattern_that_matches_counts_and_the_star_comes_last(network):
    assert parse_precision({"*": "int8", "head": "fp32"}).patterns == (
        ("head", "fp32"), ("*", "int8")
    )
    for pattern in ("head", "he*"):
        overrides = parse_precision({"*": "int8", pattern: "fp32"})
        assert [overrides.precision_of(layer) for layer in network.layers] == ["int8", "fp32"]
    first = parse_precision({"features.0.norm": "bf16", "features": "fp32", "*": "int8"})
    assert [first.precision_of(layer) for layer in network.layers] == ["bf16", "int8"]
    assert (first.lowest, first.half) == ("int8", "bf16")


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ({"head": "int8"}, r"it says nothing of other layers\. Add \"\*\": \"int8\""),
        ({"head": "int3", "*": "int8"}, r"\{'head': 'int3'\} is not valid: unknown value for a "
         r"layer\. Use one of 'int8', 'fp8', 'int8_weights', 'fp16', 'bf16', 'fp32'"),
        ({3: "int8", "*": "int8"}, "unknown value for a layer"),
        ({"a": "fp16", "b": "bf16", "*": "int8"}, "a network has one 16-bit float"),
        (["int8"], r"precision=\['int8'\] is not valid: neither a name nor a dict"),
        (None, "neither a name nor a dict"),
    ],
)
def test_unusable_precisions_are_refused(precision, message):
    with pytest.raises(ConfigError, match=message):
        parse_precision(precision)


def test_a_pattern_that_matches_nothing_is_refused_with_near_names(network):
    with pytest.raises(ConfigError, match=r"precision='feature\.0' is not valid: no layer .*\. "
                       r"Near names: 'features\.0'"):
        parse_precision({"feature.0": "fp32", "*": "int8"}).check_matches(network)
    with pytest.raises(ConfigError, match=r"Near names: 'features', 'features\.0'"):
        parse_precision({"zzz": "fp32", "*": "int8"}).check_matches(network)


def test_an_override_the_cpu_has_no_arithmetic_for_is_refused():
    overrides = parse_precision({"head": "fp16", "*": "int8"})
    with pytest.raises(ConfigError, match=r"precision='fp16' .* it needs device=\"cuda\""):
        BuildConfig(precision="int8", overrides=overrides)


def test_convert_keeps_modules_out_of_a_low_precision(tmp_path):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    rt = torch2rt.convert(
        model, torch.randn(3, 8), precision={"2": "fp32", "*": "bf16"}, threads=1, progress=False,
        timing_cache=tmp_path / "t.jsonl",
    )
    weights = {
        t.name.partition(":")[0]: t.dtype.value for t in rt.engine.network.constants if t.rank == 2
    }
    assert weights == {"0.weight": "bfloat16", "2.weight": "float32"}
    assert rt.engine.precision == "bf16"
    with pytest.raises(ConfigError, match=r"precision='3' is not valid: no layer"):
        torch2rt.convert(model, torch.randn(3, 8), precision={"3": "fp32", "*": "bf16"})
