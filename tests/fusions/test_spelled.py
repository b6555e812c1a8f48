"""Attention and layer norm spelled out."""

import pytest
import torch
from fusion_testing import check_fires, check_refused, pointwise
from layer_testing import lower_model
from torch import nn

from torch2rt.backends.reference.executor import run_network
from torch2rt.fusions.affine_into_norm import AffineIntoNorm
from torch2rt.fusions.attention import FuseAttention
from torch2rt.fusions.layer_norm import FuseLayerNorm
from torch2rt.passes.pipeline import optimize

QKV = (
    "input %q: float32[2,3,4]\ninput %k: float32[2,5,4]\ninput %v: float32[2,5,6]\n"
    "input %m: float32[1,3,5]\ninput %big: float32[3,1,1]\ninput %r: float32[2,3,6]\n"
)


def attention(scores: str = "", more: str = "", axis: int = 2, output: str = "%y") -> str:
    return (
        f'%s = matmul(%q, %k{more}) {{"transpose_b":true}}{scores} -> float32[2,3,5]\n'
        f'%p = softmax(%s) {{"axis":{axis}}} -> float32[2,3,5]\n'
        f"%y = matmul(%p, %v) -> float32[2,3,6]\noutput y = {output}\n"
    )


@pytest.mark.parametrize(
    ("more", "scores", "want"),
    [
        ("", "", '"scale":1.0}'),
        ("", " epilogue mul(i0,0.5)", '"scale":0.5}'),
        (", %m", " epilogue add(i0,i1)", '"scale":1.0,"has_mask":true}'),
        (", %m", " epilogue add(mul(i0,0.5),i1)", '"scale":0.5,"has_mask":true}'),
    ],
)
def test_attention(more: str, scores: str, want: str) -> None:
    check_fires(FuseAttention(), QKV + attention(scores, more), kinds=["attention"], lines=[want])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (attention() + "output z = %p\n", "other readers"),
        (attention() + "output z = %s\n", "other readers"),
        (attention(axis=1), ""),
        (attention(" epilogue tanh(i0)"), ""),
        (attention(" epilogue mul(i0,i1)", ", %m"), ""),
        (attention().replace("matmul(%p, %v)", "matmul(%p, %v, %r)").replace(
            ") -> float32[2,3,6]", ") epilogue add(i0,i1) -> float32[2,3,6]"), "epilogue follows"),
    ],
)
def test_attention_refused(body: str, reason: str) -> None:
    check_refused(FuseAttention(), QKV + body, reason=reason)


def norm(eps: str = "0.5", axes: str = "2", keepdim: str = "true", root: str = "rsqrt") -> str:
    mean = f'{{"mode":"mean","axes":[{axes}],"keepdim":{keepdim}}}'
    return (
        "input %x: float32[2,3,4]\nconstant @w: float32[4]\n"
        f"%m = reduce(%x) {mean} -> float32[2,3,1]\n"
        + pointwise("d", "%x, %m", "sub(i0,i1)", "float32[2,3,4]")
        + pointwise("s", "%d", "square(i0)", "float32[2,3,4]")
        + f"%r = reduce(%s) {mean} epilogue {root}(add(i0,{eps})) -> float32[2,3,1]\n"
        + pointwise("y", "%d, %r, @w", "mul(mul(i0,i1),i2)", "float32[2,3,4]")
        + "output y = %y\n"
    )


def test_layer_norm() -> None:
    kinds = ["layer_norm", "pointwise"]
    check_fires(FuseLayerNorm(), norm(), kinds=kinds, lines=['"axis_count":1,"eps":0.5}'])


def test_a_division_by_the_root() -> None:
    source = norm(root="sqrt").replace("mul(mul(i0,i1),i2)", "mul(div(i0,i1),i2)")
    check_fires(FuseLayerNorm(), source, kinds=["layer_norm", "pointwise"])


def test_rms_norm() -> None:
    source = (
        "input %x: float32[2,3,4]\n" + pointwise("s", "%x", "square(i0)", "float32[2,3,4]")
        + '%r = reduce(%s) {"mode":"mean","axes":[1,2],"keepdim":true} epilogue '
        "rsqrt(add(i0,0.25)) -> float32[2,1,1]\n"
        + pointwise("y", "%r, %x", "mul(i0,i1)", "float32[2,3,4]") + "output y = %y\n"
    )
    want = '"axis_count":2,"eps":0.25,"is_centered":false}'
    check_fires(FuseLayerNorm(), source, lines=[want])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (norm() + "output z = %r\n", "other readers"),
        (norm() + "output z = %d\n", "other readers"),
        (norm(root="exp"), ""),
        (norm().replace('"mean"', '"sum"'), ""),
        (norm(axes="1").replace("float32[2,3,1]", "float32[2,1,4]"), ""),
    ],
)
def test_layer_norm_refused(source: str, reason: str) -> None:
    check_refused(FuseLayerNorm(), source, reason=reason)


NORM = (
    "input %x: float32[2,3,4]\nconstant @w: float32[4]\nconstant @b: float32[1,1,4]\n"
    "constant @row: float32[3,1]\n"
    '%n = layer_norm(%x) {"axis_count":1,"eps":0.1} -> float32[2,3,4]\n'
)


@pytest.mark.parametrize(
    ("inputs", "expression"),
    [
        ("%n, @w, @b", "add(mul(i0,i1),i2)"),
        ("%n, @b", "mul(i0,i1)"),
        ("%n, @b", "add(i0,i1)"),
        ("%n", "mul(i0,2.0)"),
    ],
)
def test_affine_into_norm(inputs: str, expression: str) -> None:
    source = NORM + pointwise("y", inputs, expression, "float32[2,3,4]") + "output y = %y\n"
    check_fires(AffineIntoNorm(), source, kinds=["layer_norm"])


@pytest.mark.parametrize(
    ("inputs", "type", "tail", "reason"),
    [
        ("%n, @row", "float32[2,3,4]", "", "normalised axes"),
        ("%n, @w", "float32[2,3,4]", "output z = %n\n", "other readers"),
        ("%n, @w", "float16[2,3,4]", "", "becomes float16"),
        ("%n, %x", "float32[2,3,4]", "", ""),
    ],
)
def test_affine_into_norm_refused(inputs: str, type: str, tail: str, reason: str) -> None:
    source = NORM + pointwise("y", inputs, "mul(i0,i1)", type) + "output y = %y\n" + tail
    check_refused(AffineIntoNorm(), source, reason=reason)


class SpelledTransformer(nn.Module):
    """What eager models of transformers write: attention, layer norm and GELU by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.weight, self.bias = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            layer(x).view(2, 5, 2, 4).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-1, -2) / 2.0 + (1.0 - mask)[:, None, None, :] * -1e4
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 5, 8) + x
        centred = y - y.mean(-1, keepdim=True)
        y = centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)
        y = self.weight * y + self.bias
        return 0.5 * y * (1.0 + torch.erf(y / 2.0**0.5))


def test_a_transformer_layer_spelled_out() -> None:
    inputs = (torch.randn(2, 5, 8), torch.tensor([[1.0, 1, 1, 1, 0], [1, 1, 1, 0, 0]]))
    model = SpelledTransformer()
    network = lower_model(model, *inputs).network
    optimize(network)
    kinds = [layer.kind.name for layer in network.layers]
    assert kinds.count("attention") == kinds.count("layer_norm") == 1
    assert "softmax" not in kinds
    assert "reduce" not in kinds
    assert any("gelu" in str(layer.kind) for layer in network.layers)
    with torch.no_grad():
        want = model.double()(*(x.double() for x in inputs))
    feed = {name: x.double() for name, x in zip(network.inputs, inputs, strict=True)}
    (got,) = run_network(network, feed, dtype=torch.float64).values()
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
