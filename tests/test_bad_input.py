"""Models and inputs that are odd: each gives the right result, or an error that says what to do."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import torch2rt
from torch2rt.capture.errors import BufferMutationError, CaptureError, DataDependentError
from torch2rt.errors import CallError, InputError, PytreeError
from torch2rt.inspect.tolerance import NETWORK, relative_error


class Function(nn.Module):
    """A model from a function of the model and its inputs; tensors become buffers."""

    def __init__(self, function, **state):
        super().__init__()
        self.function = function
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, *args):
        return self.function(self, *args)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("bad_input") / "timing.jsonl"


def converted(model, args, cache):
    return torch2rt.convert(model.eval(), args, timing_cache=cache, threads=1, progress=False)


def tensors(value):
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def check(model, args, cache):
    """The engine gives what the model gives, in memory of its own, and leaves inputs alone."""
    rt = converted(model, args, cache)
    copies = [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args]
    with torch.no_grad():
        want = tensors(copy.deepcopy(model)(*copies))
    before = [tensor.clone() for tensor in tensors(args)]
    got = tensors(rt(*args))
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert relative_error(one, other) <= NETWORK["fp32"]
    for one, other in zip(before, tensors(args), strict=True):
        assert torch.equal(one, other)
    addresses = [tensor.data_ptr() for tensor in (*got, *tensors(args)) if tensor.numel()]
    assert len(set(addresses)) == len({id(tensor) for tensor in (*got, *tensors(args))
                                       if tensor.numel()})
    return rt


def x():
    return torch.randn(2, 3)


def twice(y):
    return y, y


RIGHT = {
    "its input": (lambda m, x: x, x),
    "its input and more": (lambda m, x: (x, x + 1), x),
    "its input twice": (lambda m, x: twice(x), x),
    "one tensor twice": (lambda m, x: twice(x * 2), x),
    "a transposed view of an input": (lambda m, x: x.t(), x),
    "a flat view of an input": (lambda m, x: x.view(-1), x),
    "a slice of an input": (lambda m, x: x[:, 1:], x),
    "views of another output": (lambda m, x: (lambda y: (y, y.view(-1), y[:, :2]))(x * 2), x),
    "an expanded view": (lambda m, x: x.expand(4, 2, 3).permute(2, 0, 1), x),
    "in-place on an input": (lambda m, x: x.add_(1) * 2, x),
    "in-place on a view of an input": (lambda m, x: (x[0].zero_(), x * 2)[1], x),
    "an input changed in place": (lambda m, x: (x.mul_(3), x)[1], x),
    "a constant beside a result": (lambda m, x: (x + 1, torch.ones(3), torch.arange(2)), x),
    "only a constant": (lambda m, x: torch.full((2, 2), 3.0), x),
    "no elements": (lambda m, x: x[:, :0], x),
    "a concat with nothing": (lambda m, x: torch.cat([x, x[:, :0]], 1), x),
    "a product over nothing": (lambda m, x: x[:, :0] @ torch.zeros(0, 4), x),
    "a scalar": (lambda m, x: x.sum(), x),
    "scalar to scalar": (lambda m, x: (x * 2, x + torch.tensor(3.0)), lambda: torch.tensor(1.5)),
    "an empty batch": (lambda m, x: (x + 1, x.sum()), lambda: torch.randn(0, 3)),
    "8-bit numbers that wrap": (
        lambda m, x: (x + 200, x.to(torch.int32) * 3, x / 2),
        lambda: torch.tensor([1, 100, 250], dtype=torch.uint8),
    ),
    "bools": (
        lambda m, x: (x & ~x, x ^ True, x.any(), x.all()), lambda: torch.tensor([True, False]),
    ),
}


@pytest.mark.parametrize("what", RIGHT)
def test_it_returns_what_the_model_returns(what, cache):
    function, make = RIGHT[what]
    check(Function(function), (make(),), cache)


def test_integers_divide_and_compare_as_in_torch(cache):
    model = Function(lambda m, a, b: (a + b, a // b, a % b, a * b, a > b, a & b))
    check(model, (torch.tensor([7, -7, 5]), torch.tensor([2, 2, -3])), cache)


def test_one_tensor_given_for_two_inputs(cache):
    given = x()
    rt = converted(Function(lambda m, a, b: a - b * 2), (given, given), cache)
    a, b = x(), x()
    torch.testing.assert_close(rt(a, b), a - b * 2)


def test_shared_modules_and_tied_weights(cache):
    linear, norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
    norm.running_mean.normal_()
    check(nn.Sequential(linear, norm, nn.ReLU(), linear, norm), (x(),), cache)
    embedding, head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    head.weight = embedding.weight
    check(nn.Sequential(embedding, head), (torch.tensor([[1, 2, 3]]),), cache)


def test_one_convolution_before_two_norms(cache):
    norms = [nn.BatchNorm2d(4), nn.BatchNorm2d(4)]
    for norm in norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    model = Function(
        lambda m, x: (m.one(m.conv(x)), m.two(m.conv(x + 1))), conv=nn.Conv2d(3, 4, 1),
        one=norms[0], two=norms[1],
    )
    check(model, (torch.randn(2, 3, 4, 4),), cache)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_models_of_other_dtypes_keep_them(dtype, cache):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval().to(dtype)
    image = torch.randn(1, 3, 8, 8).to(dtype)
    rt = converted(model, (image,), cache)
    got, want = rt(image), model(image).detach()
    assert got.dtype is dtype
    exact = model.double()(image.double()).detach()
    assert relative_error(got, exact) <= 1.5 * relative_error(want, exact) + 1e-15


def assign(model, x):
    model.count = model.count + 1
    return x + model.count


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: (m.count.add_(1), x + m.count)[1],
        lambda m, x: (m.count.copy_(x[0]), x)[1],
        assign,
    ],
)
def test_state_written_in_forward_is_refused_by_name(function, cache):
    model = Function(function, count=torch.zeros(3))
    with pytest.raises(BufferMutationError, match="writes to buffer 'count' in forward"):
        converted(model, (x(),), cache)


REFUSED_INPUTS = {
    "complex": (lambda: x().to(torch.complex64), "dtype torch.complex64 is not supported"),
    "sparse": (lambda: x().to_sparse(), "layout torch.sparse_coo is not supported"),
    "unsigned": (lambda: torch.arange(3).to(torch.uint16), "dtype torch.uint16 is not supported"),
    "meta": (lambda: torch.empty(2, 3, device="meta"), "on the meta device has no values"),
    "object": (lambda: object(), "a value of type builtins.object is not supported"),
    "number alone": (lambda: 3, "they hold no tensor"),
}


@pytest.mark.parametrize("what", REFUSED_INPUTS)
def test_inputs_no_engine_takes_are_named(what, cache):
    make, reason = REFUSED_INPUTS[what]
    with pytest.raises(PytreeError, match=reason):
        converted(Function(lambda m, x: torch.ones(3)), (make(),), cache)


@pytest.mark.parametrize(
    ("function", "error", "reason"),
    [
        (lambda m, x: None, CaptureError, "returns no tensor"),
        (lambda m, x: 3, CaptureError, "returns no tensor"),
        (lambda m, x: (x, object()), PytreeError, r"output\.1: a value of type builtins\.object"),
        (lambda m, x: torch.fft.rfft(x).abs(), CaptureError,
         r"test_bad_input\.py:\d+: fft_rfft is a tensor of torch\.complex64"),
        (lambda m, x: x[x > 0], DataDependentError, r"input\.py:\d+: the shape .* depends"),
        (lambda m, x: x * 2 if x.sum() > 0 else x, DataDependentError,
         r"decides by the value of a tensor.* at test_bad_input\.py"),
        (lambda m, x: x @ torch.ones(5, 2), CaptureError, r"at test_bad_input\.py:\d+: .*2, 3"),
    ],
)
def test_models_no_engine_can_hold_say_where(function, error, reason, cache):
    with pytest.raises(error, match=reason):
        converted(Function(function), (x(),), cache)


def test_what_is_no_model_or_has_no_weights(cache):
    with pytest.raises(CaptureError, match=r"it is no torch\.nn\.Module"):
        torch2rt.convert(lambda x: x, x(), timing_cache=cache, progress=False)
    with pytest.raises(CaptureError, match="'weight' is on the meta device"):
        converted(nn.Linear(3, 2, device="meta"), (x(),), cache)


def test_calls_that_do_not_fit_say_what_the_model_takes(cache):
    with pytest.raises(CallError, match="do not fit the model's forward"):
        converted(nn.Linear(3, 2), (x(), x()), cache)
    rt = converted(nn.Linear(3, 2), (x(),), cache)
    with pytest.raises(CallError, match=r"1 positional argument.s. too many"):
        rt(x(), x())
    with pytest.raises(CallError, match="'input' is missing"):
        rt()
    with pytest.raises(CallError, match="unexpected argument 'mask'"):
        rt(x(), mask=x())
    with pytest.raises((CallError, PytreeError), match="input"):
        rt([[1.0, 2.0, 3.0]])
    with pytest.raises(InputError, match="input 'input': wrong dtype"):
        rt(torch.ones(2, 3, dtype=torch.int64))


def test_a_constant_of_the_example_may_not_change(cache):
    rt = converted(Function(lambda m, x, n: x * n), (x(), 3), cache)
    given = x()
    torch.testing.assert_close(rt(given, 3), given * 3)
    with pytest.raises((CallError, PytreeError), match="3"):
        rt(given, 4)
