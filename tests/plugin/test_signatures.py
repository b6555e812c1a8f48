"""What a plugin's parameters and results must be, and what is said of code that needs data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torch2rt
from torch2rt.build.timing_cache import TimingCache
from torch2rt.capture.errors import CaptureError
from torch2rt.capture.export import capture
from torch2rt.errors import PluginError

X = torch.randn(3, 4)


class Calls(nn.Module):
    def __init__(self, function, *arguments):
        super().__init__()
        self.function, self.arguments = function, arguments

    def forward(self, x):
        found = self.function(x, *self.arguments)
        return found["sorted"] if isinstance(found, dict) else found


def captured(function, *arguments):
    return capture(Calls(function, *arguments).eval(), (X,))


@pytest.mark.parametrize(("body", "got"), [
    (lambda x: (x + 1, x * 2), r"\(Tensor, Tensor\)"), (lambda x: {"sorted": x}, r"\(dict\)"),
    (lambda x: None, r"\(NoneType\)"), (lambda x: [x + 1], r"\(Tensor\)"),
])
def test_results_are_those_of_the_annotation(body, got):
    plugin = torch2rt.plugin("t_signatures::results")(body)
    with pytest.raises(PluginError, match=rf"its body returns {got}, and its annotation says 1 "
                       r"tensor\. Annotate the result, as -> Tensor or -> tuple\[Tensor, Tensor\]"):
        captured(plugin)


def test_too_few_results():
    @torch2rt.plugin("t_signatures::few")
    def few(x: Tensor) -> tuple[Tensor, Tensor]:
        return (x + 1,)

    with pytest.raises(PluginError, match=r"returns \(Tensor\), and its annotation says 2 tensors"):
        captured(few)


def test_a_number_where_a_parameter_is_a_tensor():
    class Power(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, exponent):
            return x**exponent

    torch2rt.plugin(Power)
    plugin = torch2rt.plugin("t_signatures::power")(lambda x, exponent: x**exponent)
    for function in (Power.apply, plugin):
        with pytest.raises(PluginError, match=r"its parameter 'exponent' is a Tensor, and a call "
                           r"gives 2\. Annotate it where it is something else, as exponent: int"):
            captured(function, 2)


def test_an_unusable_annotation_is_told_in_a_line():
    def sized(x: Tensor, sizes: tuple) -> Tensor:
        return x

    with pytest.raises(PluginError, match=r"Parameter sizes has unsupported type <class 'tuple'>\. "
                       r"Annotate parameters"):
        torch2rt.plugin("t_signatures::sized")(sized)


def _sorted(x):
    return torch.from_numpy(np.sort(x.numpy(), -1))


class Sorted(nn.Module):
    def forward(self, x):
        return {"sorted": _sorted(x)}


def test_code_that_needs_data_is_told_of_fake():
    torch2rt.plugin(Sorted)
    for function, name in (
        (torch2rt.plugin("t_signatures::sorted")(_sorted), "t_signatures::sorted"),
        (Sorted(), r"\w+::Sorted"),
    ):
        with pytest.raises(CaptureError, match=rf"plugin '{name}' does not run on tensors without "
                           r"data \(RuntimeError: .*numpy.*\n.*plugin\(\.\.\., fake=\.\.\.\)"):
            captured(function)


def test_fake_serves_module_classes_too():
    torch2rt.plugin(Sorted, fake=lambda x: {"sorted": torch.empty_like(x)})
    model = Calls(Sorted()).eval()
    rt = torch2rt.convert(model, X, timing_cache=TimingCache(), progress=False)
    for x in (X, torch.randn(7, 4)):
        assert torch.equal(rt(x), model(x))


def test_results_of_another_dtype_than_promised_are_refused():
    plugin = torch2rt.plugin("t_signatures::wide", fake=torch.empty_like)(lambda x: x.double())
    with pytest.raises(CaptureError, match=r"t_signatures\.wide\.default at .* gives torch\.float64"
                       r" and not torch\.float32\.\n"):
        captured(plugin)
