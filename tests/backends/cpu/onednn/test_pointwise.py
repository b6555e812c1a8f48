import pytest
import torch
import torch.nn.functional as F
from needs import needs_onednn

from torch2rt.backends.cpu.onednn import (
    Algorithm,
    Arg,
    Attributes,
    Binary,
    Eltwise,
    binary,
    concat,
    eltwise,
    post_op_arg,
    prelu,
    reduction,
    reorder,
    scale_arg,
    shuffle,
    source_arg,
    weighted_sum,
)

pytestmark = needs_onednn

ELTWISE = {
    "relu": (Algorithm.relu, 0.0, 0.0, F.relu),
    "leaky": (Algorithm.relu, 0.1, 0.0, lambda x: F.leaky_relu(x, 0.1)),
    "tanh": (Algorithm.tanh, 0.0, 0.0, torch.tanh),
    "elu": (Algorithm.elu, 0.7, 0.0, lambda x: F.elu(x, 0.7)),
    "square": (Algorithm.square, 0.0, 0.0, torch.square),
    "abs": (Algorithm.abs, 0.0, 0.0, torch.abs),
    "linear": (Algorithm.linear, 2.0, -1.0, lambda x: 2 * x - 1),
    "softplus": (Algorithm.soft_relu, 1.0, 0.0, F.softplus),
    "hardsigmoid": (Algorithm.hardsigmoid, 1 / 6, 0.5, F.hardsigmoid),
    "sigmoid": (Algorithm.logistic, 0.0, 0.0, torch.sigmoid),
    "exp": (Algorithm.exp, 0.0, 0.0, torch.exp),
    "gelu_tanh": (Algorithm.gelu_tanh, 0.0, 0.0, lambda x: F.gelu(x, approximate="tanh")),
    "gelu": (Algorithm.gelu_erf, 0.0, 0.0, F.gelu),
    "silu": (Algorithm.swish, 1.0, 0.0, F.silu),
    "clip": (Algorithm.clip_v2, -0.5, 0.5, lambda x: x.clamp(-0.5, 0.5)),
    "mish": (Algorithm.mish, 0.0, 0.0, F.mish),
    "hardswish": (Algorithm.hardswish, 1 / 6, 0.5, F.hardswish),
    "round": (Algorithm.round, 0.0, 0.0, torch.round),
}
POSITIVE = {
    "sqrt": (Algorithm.sqrt, 0.0, 0.0, torch.sqrt),
    "log": (Algorithm.log, 0.0, 0.0, torch.log),
    "pow": (Algorithm.pow, 2.0, -0.5, lambda x: 2 * x**-0.5),
}


@pytest.mark.parametrize("name", [*ELTWISE, *POSITIVE])
def test_eltwise_equals_torch(execute, assert_near, plain_desc, name):
    algorithm, alpha, beta, function = (ELTWISE | POSITIVE)[name]
    x = 3 * torch.randn(2, 19, 3)
    if name in POSITIVE:
        x = x.abs() + 0.1
    desc = eltwise(algorithm, plain_desc(x), plain_desc(x), alpha=alpha, beta=beta)
    assert_near(execute(desc, {Arg.src: x}), function(x.double()))


def test_eltwise_passes_nan_through_relu_chain(execute, plain_desc):
    x = torch.tensor([[float("nan"), -1.0, 2.0]])
    desc = eltwise(Algorithm.linear, plain_desc(x), plain_desc(x), alpha=1.0)
    assert torch.isnan(execute(desc, {Arg.src: x})).tolist() == [[True, False, False]]


BINARY = {
    Algorithm.add: torch.add,
    Algorithm.sub: torch.sub,
    Algorithm.mul: torch.mul,
    Algorithm.div: torch.div,
    Algorithm.max: torch.maximum,
    Algorithm.min: torch.minimum,
    Algorithm.ge: torch.ge,
    Algorithm.gt: torch.gt,
    Algorithm.le: torch.le,
    Algorithm.lt: torch.lt,
    Algorithm.eq: torch.eq,
    Algorithm.ne: torch.ne,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("algorithm", BINARY)
def test_binary_broadcasts_as_torch(execute, plain_desc, algorithm, dtype):
    a, b = torch.randn(2, 6, 5, 4).to(dtype), torch.randn(1, 6, 1, 1).to(dtype)
    a[0, :, 0, 0] = b[0, :, 0, 0]
    expected = BINARY[algorithm](a, b).to(dtype)
    desc = binary(algorithm, plain_desc(a), plain_desc(b), plain_desc(a))
    actual = execute(desc, {Arg.src: a, Arg.src_1: b})
    torch.testing.assert_close(actual, expected)


def test_binary_with_a_post_op_chain(execute, assert_near, plain_desc):
    a, b, c = torch.randn(2, 6, 5), torch.randn(2, 6, 5), torch.randn(1, 1, 5)
    attributes = Attributes([Eltwise(Algorithm.tanh), Binary(Algorithm.mul, plain_desc(c))])
    desc = binary(Algorithm.add, plain_desc(a), plain_desc(b), plain_desc(a), attributes=attributes)
    tensors = {Arg.src: a, Arg.src_1: b, post_op_arg(1): c}
    assert_near(execute(desc, tensors), torch.tanh(a.double() + b) * c)


def test_prelu_equals_torch(execute, assert_near, plain_desc, any_desc):
    x, w = torch.randn(2, 7, 4, 4), torch.rand(1, 7, 1, 1)
    desc = prelu(plain_desc(x), any_desc(w), plain_desc(x))
    assert_near(execute(desc, {Arg.src: x, Arg.weights: w}), F.prelu(x, w.flatten()))


@pytest.mark.parametrize(
    ("algorithm", "function"),
    [
        (Algorithm.reduction_sum, torch.sum),
        (Algorithm.reduction_mean, torch.mean),
        (Algorithm.reduction_max, torch.amax),
        (Algorithm.reduction_min, torch.amin),
    ],
)
@pytest.mark.parametrize("axes", [(2, 3), (1,), (0, 1, 2, 3)])
def test_reduction_equals_torch(execute, assert_near, plain_desc, algorithm, function, axes):
    x = torch.randn(3, 5, 4, 6)
    expected = function(x.double(), dim=axes, keepdim=True)
    desc = reduction(algorithm, plain_desc(x), plain_desc(expected.float()))
    assert_near(execute(desc, {Arg.src: x}), expected)


def test_reduction_norm(execute, assert_near, plain_desc):
    x = torch.randn(3, 8)
    expected = torch.linalg.vector_norm(x.double(), 2, dim=1, keepdim=True)
    desc = reduction(
        Algorithm.reduction_norm_lp_sum, plain_desc(x), plain_desc(expected.float()), power=2.0
    )
    assert_near(execute(desc, {Arg.src: x}), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concat_equals_torch(execute, plain_desc, axis):
    parts = [torch.randn(2, 3, 4) for _ in range(3)]
    expected = torch.cat(parts, axis)
    desc = concat([plain_desc(part) for part in parts], axis, plain_desc(expected))
    actual = execute(desc, {source_arg(i): part for i, part in enumerate(parts)})
    assert torch.equal(actual, expected)


def test_concat_lets_the_library_choose_the_result(execute, plain_desc):
    parts = [torch.randn(1, 16, 3, 3), torch.randn(1, 32, 3, 3)]
    desc = concat([plain_desc(part) for part in parts], 1)
    actual = execute(desc, {source_arg(i): part for i, part in enumerate(parts)})
    assert torch.equal(actual, torch.cat(parts, 1))


def test_concat_needs_a_source():
    with pytest.raises(ValueError, match="no source given"):
        concat([], 0)


def test_weighted_sum(execute, assert_near, plain_desc):
    parts = [torch.randn(2, 5) for _ in range(3)]
    desc = weighted_sum([plain_desc(part) for part in parts], [1.0, -2.0, 0.5])
    expected = parts[0].double() - 2 * parts[1] + 0.5 * parts[2]
    assert_near(execute(desc, {source_arg(i): part for i, part in enumerate(parts)}), expected)


def test_reorder_quantises_with_a_scale(execute, plain_desc):
    x = torch.tensor([[-3.0, -0.26, 0.0, 0.24, 0.26, 1000.0]])
    q = x.to(torch.int8)
    desc = reorder(plain_desc(x), plain_desc(q), attributes=Attributes(scales={Arg.dst: 0}))
    actual = execute(desc, {Arg.src: x}, others={scale_arg(Arg.dst): torch.tensor([0.5])})
    assert actual.tolist() == [[-6, -1, 0, 0, 1, 127]]


def test_shuffle_equals_torch_channel_shuffle(execute, plain_desc):
    x = torch.randn(2, 12, 3, 3)
    desc = shuffle(plain_desc(x), plain_desc(x), 1, 12 // 3)
    assert torch.equal(execute(desc, {Arg.src: x}), F.channel_shuffle(x, 3))
