"""Plugins between guard bytes: each misdeed is told by name, with what the plugin was given."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.errors import PluginError

X = torch.randn(3, 4)
GIVEN = r"It was given float32\[3,4\]:plain, float32\[3,4\]:plain"


def doubled(inputs, outputs, attributes):
    np.multiply(inputs[0], 2, out=outputs[0])


def writes_after(inputs, outputs, attributes):
    doubled(inputs, outputs, attributes)
    ctypes.memset(outputs[0].ctypes.data + outputs[0].nbytes, 0, 8)


def writes_before(inputs, outputs, attributes):
    doubled(inputs, outputs, attributes)
    ctypes.memset(outputs[0].ctypes.data - 4, 0, 4)


def changes_input(inputs, outputs, attributes):
    doubled(inputs, outputs, attributes)
    inputs[0][1, 2] += 1


def leaves_part(inputs, outputs, attributes):
    outputs[0][1:] = inputs[0][1:] * 2


class Model(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(4, 4), function

    def forward(self, x):
        return self.function(self.linear(x)) + 1


def convert(arrays, tmp_path, **options):
    function = torch2rt.plugin("t_check::doubled", cpu=arrays)(lambda x: x * 2)
    return torch2rt.convert(
        Model(function).eval(), X, timing_cache=tmp_path / "t", progress=False, **options
    )


@pytest.mark.parametrize(("arrays", "reason"), [
    (writes_after, "it writes 8 bytes after output 0"),
    (writes_before, "it writes 4 bytes before output 0"),
    (changes_input, "it changes input 0"),
    (leaves_part, "it leaves 4 of 12 elements of output 0 unwritten"),
])
def test_a_misdeed_is_told_by_name(arrays, reason, tmp_path):
    with pytest.raises(PluginError, match=rf"plugin 't_check::doubled', layer doubled "
                       rf"\(t_check.doubled.default\), tactic plugin.python.arrays: {reason}. "
                       rf"{GIVEN}"):
        convert(arrays, tmp_path)


def test_an_error_of_the_device_is_told_by_name(tmp_path, monkeypatch):
    rt = convert(doubled, tmp_path)
    backend = type(rt.engine.backend)
    runner = backend.runner

    def failing(self, calls):
        run = runner(self, calls)
        is_plugin = "NumpyCall" in repr(calls) and calls[0][0].__name__ == "run"

        def fail():
            run()
            if is_plugin:
                raise OSError("an illegal memory access was encountered")

        return fail

    monkeypatch.setattr(backend, "runner", failing)
    with pytest.raises(PluginError, match=r"plugin 't_check::doubled', layer doubled .*: its run "
                       rf"ends in OSError: an illegal memory access was encountered. {GIVEN}"):
        rt.check_plugins(X)


def test_a_good_plugin_passes_and_can_be_checked_again(tmp_path):
    rt = convert(doubled, tmp_path)
    assert rt.check_plugins(X) == ["doubled"]
    assert ("plugins: 1\n  doubled: t_check::doubled version 1 of "
            f"{__name__}, by its function of numpy arrays") in rt.report()
    assert rt.check_plugins(torch.randn(5, 4)) == ["doubled"]


def test_without_verification_nothing_is_checked_until_asked(tmp_path):
    rt = convert(writes_after, tmp_path, verify=False)
    with pytest.raises(PluginError, match="8 bytes after output 0"):
        rt.check_plugins(X)
