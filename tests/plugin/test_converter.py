"""Converter rules of users: they go before ours, visibly, and clash by name."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.backends.reference.executor import run_network
from torch2rt.capture.export import capture
from torch2rt.errors import ConfigError, ConverterError, RegistrationError
from torch2rt.extension.converter import remove_converter
from torch2rt.layers.rules import Unsupported
from torch2rt.lower import lower

RELU = torch.ops.aten.relu.default
CELU = torch.ops.aten.celu.default


@pytest.fixture(autouse=True)
def forget_converters():
    yield
    remove_converter(RELU, CELU)


class Model(nn.Module):
    def forward(self, x):
        return torch.celu(torch.relu(x + 1), 2.0)


def texts(model):
    lowered = lower(capture(model, (torch.randn(2, 3),), {}))
    return [layer.kind.expression.text for layer in lowered.network.layers
            if layer.kind.name == "pointwise"], lowered


def test_a_users_rule_goes_before_ours_and_the_report_says_so(tmp_path):
    @torch2rt.converter(torch.ops.aten.relu)
    def lower_relu(lowering, input):
        assert lowering.node.target is RELU
        assert lowering.network is not None
        return lowering.pointwise("clamp", input, 0.0, float("inf"))

    found, lowered = texts(Model())
    assert "clamp(i0,0.0,inf)" in found
    note = "aten.relu.default is converted by .*test_converter.py:.*lower_relu, which goes before"
    assert len(lowered.notes) == 1
    rt = torch2rt.convert(
        Model(), torch.randn(2, 3), timing_cache=tmp_path / "t", progress=False
    )
    assert re.search(note, rt.report())
    x = torch.randn(4, 3)
    torch.testing.assert_close(rt(x), Model()(x))
    remove_converter(RELU)
    found, lowered = texts(Model())
    assert not lowered.notes
    assert "relu(i0)" in found


def test_a_rule_by_name_gives_what_torch_gives():
    @torch2rt.converter("aten.celu.default")
    def lower_celu(lowering, input, alpha):
        scaled = lowering.pointwise("div", input, alpha)
        return lowering.pointwise("mul", lowering.pointwise("elu", scaled, 1.0), alpha)

    lowered = texts(Model())[1]
    assert not lowered.fallbacks
    x = torch.randn(2, 3, dtype=torch.float64)
    (found,) = run_network(lowered.network, {"x": x}).values()
    torch.testing.assert_close(found, Model()(x))


def test_what_a_rule_does_not_take_is_left_to_torch():
    @torch2rt.converter(CELU)
    def lower_celu(lowering, input, alpha):
        raise Unsupported("not with this alpha")

    (fallback,) = texts(Model())[1].fallbacks
    assert fallback.reason == "not with this alpha"


def test_two_rules_of_users_for_one_operator_are_named():
    torch2rt.converter(RELU)(_first)
    torch2rt.converter(RELU)(_first)
    with pytest.raises(RegistrationError, match=r"converter rule 'aten.relu.default' is registered "
                       r"twice: by .*:_first and by .*:_second"):
        torch2rt.converter(RELU)(_second)


def test_a_plugin_and_a_rule_for_one_operator_clash():
    torch2rt.plugin(RELU)
    with pytest.raises(RegistrationError, match=r"by operator aten::relu and by .*:_second"):
        torch2rt.converter(RELU)(_second)


def _first(lowering, input):
    return lowering.pointwise("relu", input)


def _second(lowering, input):
    return lowering.pointwise("relu", input)


@pytest.mark.parametrize("target", ["relu", 3, None])
def test_what_is_no_operator(target):
    with pytest.raises(ConfigError, match="no operator"):
        torch2rt.converter(target)


@pytest.mark.parametrize(("rule", "reason"), [
    (lambda lowering, x: x, r"it raised TypeError: .*'input'"),
    (lambda lowering, input: None, "it returned None, not tensors of the network"),
    (lambda lowering, input: lowering.pointwise("frobnicate", input), "it raised "),
    (lambda lowering, input: 1 / 0, "it raised ZeroDivisionError: division by zero"),
])
def test_what_a_users_rule_does_wrong_is_told_as_its_own(rule, reason):
    torch2rt.converter(RELU)(rule)
    with pytest.raises(ConverterError, match=rf"converter rule .*<lambda> of aten\.relu\.default "
                       rf"at .*: {reason}.*\. It is given \(lowering, input\)"):
        lower(capture(Model(), (torch.randn(2, 3),), {}))
