"""The full form: types, formats, tactics, workspace, life cycle, files, written networks."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.capture.errors import CaptureError
from torch2rt.errors import PluginError, PluginMissingError
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType
from torch2rt.plugin import unregister

EVENTS: list[str] = []
X = torch.randn(2, 3, 8, 8)


class Scale(torch2rt.Plugin):
    """Multiplies images; counts what is above a limit."""

    name = "t_classes::scale"
    tactics = ("plain", "fancy")

    def __init__(self, factor: float, limit: float = 0.0) -> None:
        self.factor, self.limit = factor, limit

    def output_types(self, inputs):
        (x,) = inputs
        return [x, TensorType((x.shape[0],), DType.INT32)]

    def reference(self, x):
        return x * self.factor, (x > self.limit).sum((1, 2, 3)).int()

    def formats(self, inputs, outputs, device):
        return [(["plain"], ["plain", "plain"]), (["channels_last"], ["channels_last", "plain"])]

    def configure(self, inputs, outputs, device, tactic):
        self.tactic, self.device = tactic, device
        EVENTS.append(f"configure {tactic} {inputs[0].layout.value}")

    def workspace_bytes(self, inputs, outputs):
        return inputs[0].element_count

    def initialize(self):
        EVENTS.append("initialize")

    def terminate(self):
        EVENTS.append("terminate")

    def enqueue(self, inputs, outputs, workspace, stream):
        assert self.device == "cpu"
        assert stream is None
        assert workspace.dtype == np.uint8
        (x,) = inputs
        above = workspace.view(bool).reshape(x.shape)
        np.greater(x, self.limit, out=above)
        np.multiply(x, self.factor, out=outputs[0])
        outputs[1][:] = above.sum((1, 2, 3))


class Model(nn.Module):
    def __init__(self, plugin: torch2rt.Plugin) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.plugin = plugin

    def forward(self, x):
        y, counts = self.plugin(self.convolution(x))
        return torch.relu(y), counts


@pytest.fixture
def scale():
    EVENTS.clear()
    torch2rt.plugin(Scale)
    return Scale(3.0, 0.25)


def convert(model, tmp_path, **options):
    return torch2rt.convert(model, X, timing_cache=tmp_path / "t", progress=False, **options)


def test_an_object_lives_from_configure_to_terminate(scale, tmp_path):
    model = Model(scale).eval()
    rt = convert(model, tmp_path)
    for batch in (2, 5):
        x = torch.randn(batch, 3, 8, 8)
        for got, want in zip(rt(x), model(x), strict=True):
            torch.testing.assert_close(got, want.detach(), rtol=1e-4, atol=1e-4)
    tried = {event for event in EVENTS if event.startswith("configure")}
    assert tried == {f"configure {tactic} {layout}" for tactic in ("plain", "fancy")
                     for layout in ("plain", "channels_last")}
    assert "plugin.python." in rt.report()
    assert EVENTS.count("initialize") > EVENTS.count("terminate")
    del rt
    gc.collect()
    assert EVENTS.count("initialize") == EVENTS.count("terminate")


def test_an_engine_keeps_the_object_and_loads_where_its_class_is(scale, tmp_path):
    model = Model(scale).eval()
    rt = convert(model, tmp_path)
    rt.save(tmp_path / "m.engine")
    unregister(scale.name)
    with pytest.raises(PluginMissingError, match=r"'t_classes::scale' version 1 runs Python code "
                       r"of '.*test_classes', and nothing of this name is registered"):
        torch2rt.load(tmp_path / "m.engine")
    loaded = torch2rt.load(tmp_path / "m.engine", plugins=[Scale])
    for got, want in zip(loaded(X), model(X), strict=True):
        torch.testing.assert_close(got, want.detach(), rtol=1e-4, atol=1e-4)


def test_another_version_is_refused(scale, tmp_path):
    convert(Model(scale).eval(), tmp_path).save(tmp_path / "m.engine")
    unregister(scale.name)
    torch2rt.plugin(type("Newer", (Scale,), {"version": "2", "__module__": __name__}))
    with pytest.raises(PluginMissingError, match=r"version 1 runs .* and version 2 is registered, "
                       r"by .*test_classes.py:Newer"):
        torch2rt.load(tmp_path / "m.engine")


def test_without_enqueue_the_reference_runs(tmp_path):
    @torch2rt.plugin
    class Plain(torch2rt.Plugin):
        name = "t_classes::plain"

        def output_types(self, inputs):
            return inputs

        def reference(self, x):
            return x + 1

        def serialize(self):
            return b"any bytes \x00\xff"

        @classmethod
        def deserialize(cls, data):
            assert data == b"any bytes \x00\xff"
            return cls()

    model = nn.Sequential(nn.Conv2d(3, 2, 1), _Called(Plain())).eval()
    rt = convert(model, tmp_path)
    torch.testing.assert_close(rt(X), model(X).detach(), rtol=1e-4, atol=1e-4)
    assert "any.torch.reference" in rt.report()


class _Called(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_an_object_in_pieces_of_torch_compile(tmp_path):
    @torch2rt.plugin
    class Triple(torch2rt.Plugin):
        name = "t_classes::triple"

        def output_types(self, inputs):
            return inputs

        def reference(self, x):
            return x * 3

    class Decides(nn.Module):
        def __init__(self):
            super().__init__()
            self.plugin = Triple()

        def forward(self, x):
            y = self.plugin(x)
            return y + 1 if y.sum() > 0 else y - 1

    rt = torch2rt.convert_pieces(Decides(), timing_cache=tmp_path / "t", progress=False)
    x = torch.ones(3, 4)
    assert torch.equal(rt(x), x * 3 + 1)
    assert torch.equal(rt(-x), x * -3 - 1)


def test_what_supports_refuses_the_reference_runs(tmp_path):
    @torch2rt.plugin
    class Picky(torch2rt.Plugin):
        name = "t_classes::picky"

        def output_types(self, inputs):
            return inputs

        def reference(self, x):
            return x * 2

        def supports(self, inputs, outputs, device):
            assert device == "cpu"
            return "not today" if inputs[0].shape[0] == 2 else None

        def enqueue(self, inputs, outputs, workspace, stream):
            np.multiply(inputs[0], 2, out=outputs[0])

    model = nn.Sequential(nn.Conv2d(3, 2, 1), _Called(Picky())).eval()
    rt = convert(model, tmp_path)
    assert "any.torch.reference" in rt.report()
    rt(torch.randn(3, 3, 8, 8))
    assert "plugin.python.first" in rt.report()


def test_code_that_raises_is_named(tmp_path):
    @torch2rt.plugin
    class Broken(torch2rt.Plugin):
        name = "t_classes::broken"

        def output_types(self, inputs):
            return inputs

        def reference(self, x):
            return x * 2

        def configure(self, inputs, outputs, device, tactic):
            raise RuntimeError("no memory")

        def enqueue(self, inputs, outputs, workspace, stream):
            pass

    with pytest.raises(PluginError, match=r"'t_classes::broken': configure raised RuntimeError: no "
                       r"memory; it was given \[float32\[2,2,8,8\]\], \[.*\], 'cpu', 'default'"):
        convert(nn.Sequential(nn.Conv2d(3, 2, 1), _Called(Broken())).eval(), tmp_path)


@pytest.mark.parametrize(("method", "returns", "message"), [
    ("formats", ["plain"], r"formats gave \['plain'\]\. Return pairs of lists"),
    ("formats", [(["plain"], [])], r"formats gave .*one layout per tensor"),
    ("workspace_bytes", -1, "workspace_bytes gave -1"),
    ("workspace_bytes", 1.5, r"workspace_bytes gave 1\.5"),
    ("serialize", "text", "serialize gave 'text', not bytes"),
])
def test_what_methods_return_is_checked(tmp_path, method, returns, message):
    made = type("Odd", (Scale,), {
        "name": "t_classes::odd", method: lambda self, *operands: returns,
    })
    torch2rt.plugin(made)
    with pytest.raises(PluginError, match=rf"'t_classes::odd': {message}"):
        convert(nn.Sequential(nn.Conv2d(3, 2, 1), _Called(made(2.0))).eval(), tmp_path)


def test_attributes_that_are_not_plain_and_names_that_are_missing():
    plugin = torch2rt.plugin(type("Tensors", (Scale,), {"name": "t_classes::tensors"}))(2.0)
    plugin.weight = torch.ones(3)
    with pytest.raises(PluginError, match=r"its attributes are not all plain .*Write serialize"):
        plugin.serialize()
    with pytest.raises(PluginError, match="'Nameless': the class has no name"):
        torch2rt.plugin(type("Nameless", (torch2rt.Plugin,), {}))


def test_types_that_cannot_be_told_are_its_own_affair(tmp_path):
    made = type("Typeless", (Scale,), {
        "name": "t_classes::typeless", "output_types": lambda self, inputs: 5,
    })
    torch2rt.plugin(made)
    with pytest.raises(CaptureError, match=r"plugin 't_classes::typeless' does not run on tensors "
                       r"without data \(TypeError.*\nLet output_types return"):
        convert(nn.Sequential(nn.Conv2d(3, 2, 1), _Called(made(2.0))).eval(), tmp_path)


@pytest.mark.parametrize("tactics", [(), ("a", "b", "c", "d")])
def test_a_class_has_one_to_three_tactics(tactics):
    made = type("Many", (Scale,), {"name": "t_classes::many", "tactics": tactics})
    with pytest.raises(PluginError, match=rf"'t_classes::many': it has {len(tactics)} tactics. "
                       r"Name one to 3"):
        torch2rt.plugin(made)


def test_float16_and_bfloat16_are_refused_unless_supports_says_otherwise():
    from torch2rt.backends.spec import TensorSpec

    plain = TensorSpec((2,), DType.FLOAT32)
    half = TensorSpec((2,), DType.BFLOAT16)
    plugin = Scale(1.0)
    assert plugin.supports([plain], [plain], "cpu") is None
    assert plugin.supports([half], [half], "cpu") == "it takes float32, not ['bfloat16']"


def test_in_a_written_network(scale, tmp_path):
    network = torch2rt.Network(sizes={"n": (1, 8)})
    x = network.add_input("x", ("n", 3, 4, 4))
    y, counts = network.add_plugin(scale, x)
    assert str(counts.type) == "int32[n]"
    network.mark_output(network.add_activation(y, "relu"), "y")
    network.mark_output(counts, "counts")
    engine = network.build(timing_cache=tmp_path / "t")
    image = torch.randn(3, 3, 4, 4)
    found = engine.run({"x": image.numpy()})
    wanted, count = scale.reference(image)
    np.testing.assert_allclose(found["y"], wanted.relu().numpy(), rtol=1e-5)
    np.testing.assert_array_equal(found["counts"], count.numpy())
    unregister(scale.name)
    with pytest.raises(PluginMissingError):
        network.add_plugin(scale, x)
