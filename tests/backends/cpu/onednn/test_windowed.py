import itertools

import pytest
import torch
import torch.nn.functional as F
from needs import needs_onednn

from torch2rt.backends.cpu.onednn import (
    Algorithm,
    Arg,
    Attributes,
    Binary,
    DataType,
    DepthwiseConvolution,
    Eltwise,
    MemoryDesc,
    OneDNNError,
    OneDNNUnsupported,
    Prelu,
    Sum,
    convolution,
    deconvolution,
    depthwise_arg,
    pooling,
    post_op_arg,
    resampling,
    scale_arg,
    set_threads,
    zero_point_arg,
)

pytestmark = needs_onednn

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def describe(tensor, tag="any"):
    types = {
        torch.float32: DataType.f32,
        torch.bfloat16: DataType.bf16,
        torch.int8: DataType.s8,
        torch.uint8: DataType.u8,
    }
    return MemoryDesc.tagged(tuple(tensor.shape), types[tensor.dtype], tag)


def split_groups(weight, groups):
    """(o, i, k...) as oneDNN's (g, o / g, i, k...); one group stays as it is."""
    if groups == 1:
        return weight
    return weight.unflatten(0, (groups, weight.shape[0] // groups))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("axes", "channels", "groups", "stride", "dilation"),
    [
        (1, (6, 10), 1, 1, 1),
        (2, (3, 20), 1, 2, 1),
        (2, (32, 48), 1, 1, 1),
        (2, (32, 32), 32, 2, 1),
        (2, (24, 36), 3, 1, 2),
        (3, (5, 7), 1, 2, 1),
    ],
)
def test_convolution_equals_torch(
    execute, assert_near, dtype, axes, channels, groups, stride, dilation
):
    inputs, outputs = channels
    x = torch.randn(2, inputs, *[11, 9, 8][:axes]).to(dtype)
    w = torch.randn(outputs, inputs // groups, *[3] * axes).to(dtype)
    b = torch.randn(outputs)
    expected = CONV[axes](
        x.double(), w.double(), b.double(), stride, 1, dilation, groups
    ).clamp_min(0)
    w = split_groups(w, groups)
    desc = convolution(
        describe(x),
        describe(w),
        describe(b, "a"),
        describe(expected.to(dtype)),
        strides=[stride] * axes,
        dilations=[dilation] * axes,
        padding_l=[1] * axes,
        padding_r=[1] * axes,
        attributes=Attributes([Eltwise(Algorithm.relu)]),
    )
    actual = execute(desc, {Arg.src: x, Arg.weights: w, Arg.bias: b})
    assert_near(actual, expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_every_implementation_of_a_convolution_agrees(execute, assert_near, threads):
    set_threads(threads)
    x, w = torch.randn(1, 16, 8, 8), torch.randn(32, 16, 3, 3)
    expected = F.conv2d(x.double(), w.double(), padding=1)
    desc = convolution(
        describe(x),
        describe(w),
        None,
        describe(expected.float()),
        strides=(1, 1),
        padding_l=(1, 1),
        padding_r=(1, 1),
    )
    names = []
    for choice in desc.implementations():
        names.append(choice.implementation)
        assert_near(execute(choice, {Arg.src: x, Arg.weights: w}), expected)
    assert names[0] == desc.implementation
    assert len(names) == len(set(names)) >= 3


@pytest.mark.parametrize("tag", ["abcd", "acdb", "aBcd16b", "aBcd8b"])
def test_residual_chain_with_padded_channels(execute, assert_near, tag):
    """conv -> * per-channel -> + residual -> hardswish, with channels that fill no block."""
    x, w = torch.randn(1, 20, 7, 5), torch.randn(24, 20, 1, 1)
    scale, residual = torch.randn(1, 24, 1, 1), torch.randn(1, 24, 7, 5)
    expected = F.hardswish(F.conv2d(x.double(), w.double()) * scale + residual)
    post_ops = [
        Binary(Algorithm.mul, describe(scale, "abcd")),
        Binary(Algorithm.add, describe(residual, tag)),
        Eltwise(Algorithm.hardswish, 1 / 6, 0.5),
    ]
    desc = convolution(
        describe(x, tag),
        describe(w),
        None,
        describe(residual, tag),
        strides=(1, 1),
        padding_l=(0, 0),
        padding_r=(0, 0),
        attributes=Attributes(post_ops),
    )
    tensors = {Arg.src: x, Arg.weights: w, post_op_arg(0): scale, post_op_arg(1): residual}
    assert_near(execute(desc, tensors), expected)


def test_sum_adds_what_dst_held(execute, assert_near):
    x, w, held = torch.randn(1, 16, 6, 6), torch.randn(16, 16, 3, 3), torch.randn(1, 16, 6, 6)
    expected = (F.conv2d(x.double(), w.double(), padding=1) + 0.5 * held.double()).relu()
    attributes = Attributes([Sum(0.5), Eltwise(Algorithm.relu)])
    desc = convolution(
        describe(x),
        describe(w),
        None,
        describe(held),
        strides=(1, 1),
        padding_l=(1, 1),
        padding_r=(1, 1),
        attributes=attributes,
    )
    assert_near(execute(desc, {Arg.src: x, Arg.weights: w}, initial_dst=held), expected)


def test_prelu_post_op_per_channel(execute, assert_near):
    x, w, slope = torch.randn(1, 16, 6, 6), torch.randn(16, 16, 1, 1), torch.rand(1, 16, 1, 1)
    expected = F.prelu(F.conv2d(x.double(), w.double()), slope.flatten().double())
    desc = convolution(
        describe(x),
        describe(w),
        None,
        describe(x),
        strides=(1, 1),
        padding_l=(0, 0),
        padding_r=(0, 0),
        attributes=Attributes([Prelu(1 << 1)]),
    )
    given = {post_op_arg(0, Arg.weights): slope}
    assert_near(execute(desc, {Arg.src: x, Arg.weights: w}, others=given), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_fused_depthwise_convolution(execute, assert_near, stride):
    x, w, b = torch.randn(1, 16, 12, 12), torch.randn(48, 16, 1, 1), torch.randn(48)
    dw, db = torch.randn(48, 1, 3, 3), torch.randn(48)
    middle = F.relu6(F.conv2d(x.double(), w.double(), b.double()))
    expected = F.relu6(F.conv2d(middle, dw.double(), db.double(), stride, 1, 1, 48))
    clip = Eltwise(Algorithm.clip_v2, 0.0, 6.0)
    fused = DepthwiseConvolution(DataType.f32, DataType.f32, DataType.f32, 3, stride, 1)
    desc = convolution(
        describe(x),
        describe(w),
        describe(b, "a"),
        describe(middle.float()),
        strides=(1, 1),
        padding_l=(0, 0),
        padding_r=(0, 0),
        attributes=Attributes([clip, fused, clip]),
    )
    tensors = {
        Arg.src: x,
        Arg.weights: w,
        Arg.bias: b,
        depthwise_arg(Arg.weights): dw.unflatten(0, (48, 1)),
        depthwise_arg(Arg.bias): db,
    }
    assert_near(execute(desc, tensors), expected)


def test_int8_convolution_with_scales_and_zero_point(execute):
    x = torch.randint(0, 255, (1, 16, 6, 6), dtype=torch.uint8)
    w = torch.randint(-127, 127, (32, 16, 3, 3), dtype=torch.int8)
    scale_x, scale_w, zero = torch.tensor([0.02]), torch.rand(32) / 50, torch.tensor([3])
    expected = F.conv2d(
        (x.double() - 3) * 0.02, w.double() * scale_w.double().view(-1, 1, 1, 1)
    ).float()
    desc = convolution(
        describe(x),
        describe(w),
        None,
        describe(expected),
        strides=(1, 1),
        padding_l=(0, 0),
        padding_r=(0, 0),
        attributes=Attributes(scales={Arg.src: 0, Arg.weights: 1 << 0}, zero_points={Arg.src: 0}),
    )
    actual = execute(
        desc,
        {Arg.src: x, Arg.weights: w},
        others={
            scale_arg(Arg.src): scale_x,
            scale_arg(Arg.weights): scale_w,
            zero_point_arg(Arg.src): zero.int(),
        },
    )
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("axes", "groups", "output_padding"), list(itertools.product([1, 2, 3], [1, 2], [0, 1]))
)
def test_deconvolution_equals_torch(execute, assert_near, axes, groups, output_padding):
    x, w = torch.randn(2, 8, *[5, 6, 4][:axes]), torch.randn(8, 6, *[3] * axes)
    b = torch.randn(6 * groups)
    transposed = CONV_TRANSPOSE[axes]
    expected = transposed(x.double(), w.double(), b.double(), 2, 1, output_padding, groups)
    ours = w.transpose(0, 1) if groups == 1 else w.unflatten(0, (groups, -1)).transpose(1, 2)
    desc = deconvolution(
        describe(x),
        describe(ours),
        describe(b, "a"),
        describe(expected.float()),
        strides=[2] * axes,
        padding_l=[1] * axes,
        padding_r=[1 - output_padding] * axes,
    )
    assert_near(execute(desc, {Arg.src: x, Arg.weights: ours, Arg.bias: b}), expected)


POOLINGS = {
    Algorithm.pooling_max: lambda x, **window: F.max_pool2d(x, **window),
    Algorithm.pooling_avg_include_padding: lambda x, **window: F.avg_pool2d(x, **window),
    Algorithm.pooling_avg_exclude_padding: lambda x, **window: F.avg_pool2d(
        x, count_include_pad=False, **window
    ),
}


@pytest.mark.parametrize("tag", ["abcd", "acdb", "aBcd16b"])
@pytest.mark.parametrize("algorithm", POOLINGS)
def test_pooling_equals_torch(execute, assert_near, algorithm, tag):
    x = torch.randn(2, 20, 11, 9)
    expected = POOLINGS[algorithm](x.double(), kernel_size=3, stride=2, padding=1)
    desc = pooling(
        algorithm,
        describe(x, tag),
        describe(expected.float()),
        kernel=(3, 3),
        strides=(2, 2),
        padding_l=(1, 1),
        padding_r=(1, 1),
    )
    assert_near(execute(desc, {Arg.src: x}), expected)


def test_dilated_max_pooling_in_1d_and_3d(execute, assert_near):
    for axes, torch_pool in ((1, F.max_pool1d), (3, F.max_pool3d)):
        x = torch.randn(1, 3, *[9, 8, 10][:axes])
        expected = torch_pool(x, 2, 1, 0, 2)
        desc = pooling(
            Algorithm.pooling_max,
            describe(x, "abcde"[: axes + 2]),
            describe(expected),
            kernel=[2] * axes,
            strides=[1] * axes,
            dilations=[2] * axes,
            padding_l=[0] * axes,
            padding_r=[0] * axes,
        )
        assert_near(execute(desc, {Arg.src: x}), expected)


@pytest.mark.parametrize(
    ("algorithm", "mode"),
    [
        (Algorithm.resampling_nearest, "nearest-exact"),
        (Algorithm.resampling_linear, "bilinear"),
    ],
)
@pytest.mark.parametrize("size", [(14, 10), (9, 4)])
def test_resampling_equals_torch(execute, assert_near, algorithm, mode, size):
    x = torch.randn(2, 16, 7, 5)
    expected = F.interpolate(x.double(), size=size, mode=mode)
    desc = resampling(algorithm, describe(x, "abcd"), describe(expected.float()))
    assert_near(execute(desc, {Arg.src: x}), expected)


def test_shapes_that_do_not_fit_name_the_call():
    with pytest.raises(OneDNNError, match=r"invalid_arguments while building convolution \(f32"):
        convolution(
            MemoryDesc.any((1, 8, 5, 5), DataType.f32),
            MemoryDesc.any((8, 7, 3, 3), DataType.f32),
            None,
            MemoryDesc.any((1, 8, 5, 5), DataType.f32),
            strides=(1, 1),
            padding_l=(1, 1),
            padding_r=(1, 1),
        )


def test_types_without_an_implementation_are_unsupported():
    with pytest.raises(OneDNNUnsupported, match="unimplemented while building convolution"):
        convolution(
            MemoryDesc.any((1, 8, 5, 5), DataType.f32),
            MemoryDesc.any((8, 8, 3, 3), DataType.bf16),
            None,
            MemoryDesc.any((1, 8, 5, 5), DataType.f32),
            strides=(1, 1),
            padding_l=(1, 1),
            padding_r=(1, 1),
        )


def test_options_need_one_number_per_axis():
    with pytest.raises(ValueError, match="strides has 1 numbers for 2 spatial axes"):
        convolution(
            MemoryDesc.any((1, 8, 5, 5), DataType.f32),
            MemoryDesc.any((8, 8, 3, 3), DataType.f32),
            None,
            MemoryDesc.any((1, 8, 5, 5), DataType.f32),
            strides=(1,),
            padding_l=(1, 1),
            padding_r=(1, 1),
        )
