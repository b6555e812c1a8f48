import pytest
import torch
import torch.nn.functional as F
from needs import ONEDNN

from torch2rt.backends.cpu.backend import onednn_unavailable
from torch2rt.backends.cpu.onednn import (
    Arg,
    Norm,
    OneDNNUnsupported,
    batch_normalization,
    group_normalization,
    layer_normalization,
    library,
    local_response_normalization,
    logsoftmax,
    softmax,
)

if onednn_unavailable() is not None:
    pytest.skip(ONEDNN, allow_module_level=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("axis", [1, 3])
def test_softmax_equals_torch(execute, assert_near, plain_desc, axis, dtype):
    x = (4 * torch.randn(2, 3, 5, 17)).to(dtype)
    desc = softmax(plain_desc(x), plain_desc(x), axis)
    assert_near(execute(desc, {Arg.src: x}), x.double().softmax(axis))


def test_logsoftmax_equals_torch(execute, assert_near, plain_desc):
    x = 4 * torch.randn(7, 19)
    desc = logsoftmax(plain_desc(x), plain_desc(x), 1)
    assert_near(execute(desc, {Arg.src: x}), x.double().log_softmax(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 33), (2, 5, 768)])
def test_layer_normalization_equals_torch(execute, assert_near, plain_desc, shape, dtype):
    x = (torch.randn(shape) * 3 + 1).to(dtype)
    scale, shift = torch.rand(shape[-1]), torch.randn(shape[-1])
    flags = Norm.use_scale | Norm.use_shift
    desc = layer_normalization(plain_desc(x), plain_desc(x), epsilon=1e-5, flags=flags)
    actual = execute(desc, {Arg.src: x}, others={Arg.scale: scale, Arg.shift: shift})
    expected = F.layer_norm(x.double(), shape[-1:], scale.double(), shift.double(), 1e-5)
    assert_near(actual, expected)


def test_batch_normalization_equals_torch(execute, assert_near, plain_desc):
    x, mean, variance = torch.randn(2, 6, 4, 4), torch.randn(6), torch.rand(6) + 0.5
    desc = batch_normalization(plain_desc(x), plain_desc(x), epsilon=1e-3)
    actual = execute(desc, {Arg.src: x}, others={Arg.mean: mean, Arg.variance: variance})
    expected = F.batch_norm(x.double(), mean.double(), variance.double(), eps=1e-3)
    assert_near(actual, expected)


def test_local_response_normalization_equals_torch(execute, assert_near, plain_desc):
    x = torch.randn(2, 9, 5, 5)
    desc = local_response_normalization(
        plain_desc(x), plain_desc(x), size=5, alpha=0.3, beta=0.75, k=2.0
    )
    expected = F.local_response_norm(x.double(), 5, 0.3, 0.75, 2.0)
    assert_near(execute(desc, {Arg.src: x}), expected)


@pytest.mark.skipif(library().version >= (3, 3, 0), reason="this oneDNN has it")
def test_group_normalization_says_which_version_it_needs(plain_desc):
    x = torch.randn(2, 6, 4, 4)
    with pytest.raises(OneDNNUnsupported, match=r"this is oneDNN 3\.\d\.\d < 3\.3"):
        group_normalization(plain_desc(x), plain_desc(x), 3, epsilon=1e-5)


@pytest.mark.skipif(library().version < (3, 3, 0), reason="needs oneDNN 3.3")
def test_group_normalization_equals_torch(execute, assert_near, plain_desc):
    x = torch.randn(2, 6, 4, 4)
    desc = group_normalization(plain_desc(x), plain_desc(x), 3, epsilon=1e-5)
    assert_near(execute(desc, {Arg.src: x}), F.group_norm(x.double(), 3))
