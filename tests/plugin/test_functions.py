"""Functions, operators and autograd Functions as plugins."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torch2rt
from torch2rt.capture.export import capture
from torch2rt.errors import ConfigError, PluginError, RegistrationError
from torch2rt.layers.plugin import Plugin
from torch2rt.lower import lower
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType
from torch2rt.network.text import parse, text
from torch2rt.plugin import CudaKernel, Int64, TritonKernel, ceil_div, count, larger, unregister

X = torch.randn(3, 4)


class Calls(nn.Module):
    """A model that calls one function between two layers."""

    def __init__(self, function, *arguments, **named):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.weight = nn.Parameter(torch.randn(4))
        self.function, self.arguments, self.named = function, arguments, named

    def forward(self, x):
        found = self.function(self.linear(x), *self.arguments, **self.named)
        found = found if isinstance(found, tuple | list) else [found]
        return [item + 1 if item.is_floating_point() else item for item in found]


def kinds(model, x=X):
    """Kinds of the plugin layers of a model."""
    network = lower(capture(model.eval(), (x,), {})).network
    return [layer.kind for layer in network.layers if isinstance(layer.kind, Plugin)]


def check(model, tmp_path, x=X, **options):
    """Convert, and compare at two batch sizes."""
    model = model.eval()
    rt = torch2rt.convert(
        model, x, timing_cache=tmp_path / "t.jsonl", progress=False, **options
    )
    for value in (x, torch.cat([x, x, x])):
        for got, want in zip(rt(value), model(value), strict=True):
            torch.testing.assert_close(got, want.detach(), rtol=2e-2, atol=1e-2)
    return rt


def test_a_function_is_one_layer_with_its_arguments_as_attributes(tmp_path):
    @torch2rt.plugin("t_functions::scale")
    def scale(x: Tensor, weight: Tensor, factor: float, times: int = 2) -> Tensor:
        return x * weight * factor**times

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4))

        def forward(self, x):
            return [scale(torch.relu(x), self.weight, factor=1.5)]

    rt = check(Model(), tmp_path)
    (layer,) = (layer for layer in rt.engine.network.layers if layer.kind.name == "plugin")
    assert layer.kind.arguments == (("tensor", 0), ("tensor", 1), 1.5, 2)
    assert layer.inputs[1].name == "weight"
    assert layer.inputs[1].is_constant
    assert layer.kind.package == __name__
    assert layer.origins[0].op == "t_functions.scale.default"


def test_lists_optionals_several_results_and_unannotated_parameters(tmp_path):
    @torch2rt.plugin("t_functions::many")
    def many(x, items: list[Tensor], bias: Tensor | None, sizes: list[int], factor=2.0,
             flag=True) -> tuple[Tensor, Tensor]:
        total = x * factor + sum(items)
        return (total if bias is None else total + bias), x.sum(-1) > sizes[0]

    class Model(nn.Module):
        def forward(self, x):
            first, second = many(x, [x, x * 2], None, [1, 2])
            return [first, second]

    check(Model(), tmp_path)
    (kind,) = kinds(Model())
    assert kind.arguments == (
        ("tensor", 0), ("list", ("tensor", 1), ("tensor", 2)), None, ("list", 1, 2), 2.0, True
    )
    assert [str(output.dtype.value) for output in kind.outputs] == ["float32", "bool"]


def test_keywords_only(tmp_path):
    @torch2rt.plugin("t_functions::keywords")
    def keywords(x: Tensor, *, factor: float = 2.0) -> Tensor:
        return x * factor

    class Model(nn.Module):
        def forward(self, x):
            return [keywords(keywords(x), factor=3.0)]

    check(Model(), tmp_path)
    with pytest.raises(PluginError, match="cannot be an operator's: custom_op with kwarg-only Ten"):
        torch2rt.plugin("t_functions::kw_tensor")(_keyword_tensor)


def _keyword_tensor(x: Tensor, *, bias: Tensor) -> Tensor:
    return x + bias


def test_a_size_of_a_free_axis_may_be_an_argument(tmp_path):
    @torch2rt.plugin("t_functions::repeated")
    def repeated(x: Tensor, times: int) -> Tensor:
        return x[:1].expand(times, -1) * 2

    class Model(nn.Module):
        def forward(self, x):
            return [repeated(x, x.shape[0])]

    check(Model(), tmp_path)


def test_a_body_that_gives_its_input_back_is_copied(tmp_path):
    same = torch2rt.plugin("t_functions::same")(lambda x: x)
    check(Calls(same), tmp_path)


def test_called_eagerly_it_is_the_body_and_gradients_pass():
    @torch2rt.plugin("t_functions::eager")
    def eager(x: Tensor) -> Tensor:
        """Documented."""
        return x * 3

    x = torch.ones(2, requires_grad=True)
    eager(x).sum().backward()
    assert x.grad.tolist() == [3, 3]
    assert eager.__doc__ == "Documented."
    assert repr(eager) == "<plugin t_functions::eager>"


def test_fake_gives_shapes_of_what_cannot_run_without_data(tmp_path):
    def largest(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.empty_like(x), x.new_empty(1, dtype=torch.int32)

    @torch2rt.plugin("t_functions::positive", fake=largest)
    def positive(x: Tensor) -> tuple[Tensor, Tensor]:
        rows = x[x[:, 0] > 0]
        out = torch.zeros_like(x)
        out[: len(rows)] = rows
        return out, torch.tensor([len(rows)], dtype=torch.int32)

    check(Calls(positive), tmp_path)


def test_a_body_whose_shapes_depend_on_values_is_an_error():
    torch2rt.plugin("t_functions::shrinks", fake=torch.empty_like)(lambda x: x[:1].clone())
    types = (TensorType((3, 4), DType.FLOAT32),)
    kind = Plugin("t_functions::shrinks", "1", __name__, types, (("tensor", 0),))
    with pytest.raises(PluginError, match=r"'t_functions::shrinks': its body returns shapes "
                       r"\[\(1, 4\)\] for \[float32\[3,4\]\], and \[\(3, 4\)\] on tensors"):
        kind.reference([X])


def test_a_body_that_raises_is_named_with_what_it_was_given():
    def raises(x: Tensor) -> Tensor:
        raise KeyError("lost")

    torch2rt.plugin("t_functions::raises", fake=torch.empty_like)(raises)
    kind = Plugin("t_functions::raises", "1", __name__, (), (("tensor", 0),))
    with pytest.raises(PluginError, match=r"its body raised KeyError: 'lost'; it was given "
                       r"float32\[3,4\]. The traceback above"):
        kind.reference([X])


def test_an_operator_that_exists_keeps_its_own_code(tmp_path):
    torch.library.define("t_functions::negate", "(Tensor x, float by=1.0) -> Tensor")
    torch.library.impl("t_functions::negate", "CompositeExplicitAutograd")(
        lambda x, by=1.0: -x * by
    )
    torch.library.register_fake("t_functions::negate")(lambda x, by=1.0: torch.empty_like(x))
    negate = torch2rt.plugin(torch.ops.t_functions.negate.default)
    assert torch.equal(negate(X), -X)
    rt = check(Calls(torch.ops.t_functions.negate, 2.0), tmp_path)
    assert "(plugin)" in rt.report()

    unregister("t_functions::negate")
    other = torch2rt.plugin("t_functions::negate")(lambda x, by=1.0: x * -by)
    check(Calls(torch.ops.t_functions.negate, 2.0), tmp_path)
    assert torch.equal(other(X), -X)


def test_an_autograd_function_keeps_its_gradient(tmp_path):
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor, factor: float = 1.0) -> Tensor:
            ctx.save_for_backward(x)
            return x * x * factor

        @staticmethod
        def backward(ctx, gradient):
            return 2 * ctx.saved_tensors[0] * gradient, None

    class NewStyle(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x + 1

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    assert torch2rt.plugin(Square) is Square
    torch2rt.plugin("t_functions::new_style")(NewStyle)

    class Model(nn.Module):
        def forward(self, x):
            return [NewStyle.apply(Square.apply(x, 3.0))]

    check(Model(), tmp_path)
    assert len(kinds(Model())) == 2
    x = torch.ones(2, requires_grad=True)
    Square.apply(x).sum().backward()
    assert x.grad.tolist() == [2, 2]
    usual = Square.apply
    unregister("t_functions::new_style")
    assert "apply" not in vars(NewStyle)
    assert usual is Square.apply


def test_pieces_of_torch_compile_hold_plugins(tmp_path):
    @torch2rt.plugin("t_functions::in_piece")
    def in_piece(x: Tensor) -> Tensor:
        return x * 5

    class Model(nn.Module):
        def forward(self, x):
            y = in_piece(x)
            return y + 1 if y.sum() > 0 else y - 1

    rt = torch2rt.convert_pieces(Model(), timing_cache=tmp_path / "t", progress=False)
    x = torch.ones(3, 4)
    assert torch.equal(rt(x), Model()(x))
    assert torch.equal(rt(-x), Model()(-x))
    assert any("t_functions.in_piece" in str(piece.graph_module.graph) for piece in rt.pieces)


# ---- the CPU's function ------------------------------------------------------------------------


def test_a_function_of_arrays_runs_on_the_cpu(tmp_path):
    given = []

    def arrays(inputs, outputs, attributes):
        given.append((len(inputs), dict(attributes)))
        np.multiply(inputs[0], attributes["factor"], out=outputs[0])

    @torch2rt.plugin("t_functions::arrays", cpu=arrays)
    def body(x: Tensor, factor: float = 2.0) -> Tensor:
        return x * factor

    rt = check(Calls(body, 3.0), tmp_path)
    assert given[0] == (1, {"factor": 3.0})
    assert "plugin.python.arrays" in rt.report()


def test_a_function_of_arrays_that_raises_is_named(tmp_path):
    def arrays(inputs, outputs, attributes):
        raise IndexError("no such row")

    body = torch2rt.plugin("t_functions::broken", cpu=arrays)(lambda x: x * 2)
    with pytest.raises(PluginError, match=r"'t_functions::broken': its cpu function raised "
                       r"IndexError: no such row; it was given \[float32\[3,4\]\], \[float32"):
        torch2rt.convert(Calls(body).eval(), X, timing_cache=tmp_path / "t", progress=False)


@pytest.mark.parametrize("precisions", [("fp32",), ("fp32", "bf16")])
def test_bf16_reaches_plugins_that_name_it(tmp_path, precisions):
    body = torch2rt.plugin("t_functions::low", precisions=precisions)(lambda x: x * 2)
    rt = check(Calls(body), tmp_path, precision="bf16")
    (layer,) = (layer for layer in rt.engine.network.layers if layer.kind.name == "plugin")
    wanted = "bfloat16" if len(precisions) == 2 else "float32"
    assert layer.output.dtype.value == layer.inputs[0].dtype.value == wanted


# ---- what travels ------------------------------------------------------------------------------


def test_kernels_grids_and_numbers_become_text_of_the_network():
    kernel = CudaKernel(
        "// } -> \"quoted\" epilogue relu(i0) -> \nvoid", "k",
        grid=lambda s, a: (ceil_div(count(s.inputs[0]), 128), larger(s.outputs[0][0], 2)),
        block=(32, 4), shared=16,
        numbers=lambda s, a: [s.inputs[0][0], Int64(count(s.inputs[0])), a["factor"], a["on"]],
    )
    body = torch2rt.plugin(
        "t_functions::kernels", cuda=[[kernel], [kernel, kernel]],
        workspace=lambda s, a: 4 * s.inputs[0][0],
    )(_scaled)
    network = lower(capture(Calls(body, 3.0).eval(), (X,), {})).network
    (kind,) = (layer.kind for layer in network.layers if isinstance(layer.kind, Plugin))
    (symbol,) = network.symbols
    first, second = kind.cuda
    assert (len(first), len(second)) == (1, 2)
    _, entry, grid, block, shared, numbers = first[0]
    assert (entry, block, shared) == ("k", (32, 4, 1), 16)
    assert list(map(str, grid)) == [f"-1*floordiv(-4*{symbol},128)", f"max({symbol},2)", "1"]
    assert [str(number) for number in numbers] == [
        symbol, f"('int64', 4*{symbol})", "3.0", "1"
    ]
    assert str(kind.workspace) == f"4*{symbol}"
    again = parse(text(network), {t.name: t.data for t in network.constants})
    (kept,) = (layer.kind for layer in again.layers if isinstance(layer.kind, Plugin))
    assert kept == kind
    assert kept.cuda[0][0][0] == kernel.source


def _scaled(x: Tensor, factor: float, on: bool = True) -> Tensor:
    return x * factor


@pytest.mark.parametrize(("option", "reason"), [
    ({"grid": lambda s, a: s.inputs[0][0] / 2}, "its grid function raised TypeError"),
    ({"grid": lambda s, a: 2.5}, "its grid has the size 2.5"),
    ({"grid": lambda s, a: (1, 1, 1, 1)}, "its grid has 4 sizes"),
    ({"grid": lambda s, a: -1}, "its grid has the size -1"),
    ({"grid": lambda s, a: 1, "numbers": lambda s, a: ["x"]}, "'x' is no number"),
    ({"grid": lambda s, a: 1, "numbers": lambda s, a: [a["lost"]]}, "raised KeyError: 'lost'"),
])
def test_grids_and_numbers_that_cannot_be_computed(option, reason):
    body = torch2rt.plugin("t_functions::grid", cuda=CudaKernel("", "k", **option))(_scaled)
    with pytest.raises(PluginError, match=reason):
        lower(capture(Calls(body, 3.0).eval(), (X,), {}))


# ---- names -------------------------------------------------------------------------------------


def test_two_plugins_of_one_name_are_named_and_the_same_one_replaces_itself():
    def register():
        @torch2rt.plugin("t_functions::twice", version="7")
        def first(x: Tensor) -> Tensor:
            return x + 1

        return first

    register()
    register()
    with pytest.raises(RegistrationError, match=r"plugin 't_functions::twice' is registered twice: "
                       r"by .*first \(version 7\) and by .*<lambda> \(version 1\)"):
        torch2rt.plugin("t_functions::twice")(lambda x: x)


@pytest.mark.parametrize("name", ["plain", "a::b::c", "a::in-valid", "a::raise", ""])
def test_names_have_a_namespace(name):
    with pytest.raises(ConfigError, match='Names are "namespace::name"'):
        torch2rt.plugin(name)(lambda x: x)


def test_what_cannot_be_a_plugin():
    with pytest.raises(ConfigError, match="nothing that can be a plugin"):
        torch2rt.plugin(3)
    with pytest.raises(ConfigError, match="no kind of class that can be a plugin"):
        torch2rt.plugin(dict)
    with pytest.raises(ConfigError, match="unknown precision"):
        torch2rt.plugin("a::b", precisions=("fp3",))
    with pytest.raises(PluginError, match="its signature cannot be an operator's"):
        torch2rt.plugin("t_functions::odd")(_odd)


def _odd(x: Tensor, y: inspect.Signature) -> Tensor:
    return x


def test_a_triton_function_without_its_parameters():
    class Jit:
        __name__ = "k"

        @staticmethod
        def fn(x, BLOCK):
            pass

    kernel = TritonKernel(Jit(), grid=lambda s, a: 1, constants={"LOST": 1})
    body = torch2rt.plugin("t_functions::triton", triton=kernel)(_scaled)
    with pytest.raises(PluginError, match=r"Triton kernel k has no parameter \['LOST'\]"):
        lower(capture(Calls(body, 3.0).eval(), (X,), {}))


def test_a_name_that_was_unregistered_takes_another_body():
    @torch2rt.plugin("t_fun::again")
    def first(x: Tensor) -> Tensor:
        return x + 1

    unregister("t_fun::again")

    @torch2rt.plugin("t_fun::again")
    def second(x: Tensor) -> Tensor:
        return x + 2

    class Calls(nn.Module):
        def forward(self, x):
            return second(x)

    x = torch.randn(3, 4)
    rt = torch2rt.convert(Calls(), x, progress=False)
    torch.testing.assert_close(rt(x), x + 2)
