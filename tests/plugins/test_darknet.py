"""Darknet's files: every number lands where Darknet puts it, damage is told clearly."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from darknet_cases import CLASSIFIER, EVERY_LAYER, darknet_maxpool
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from torch2rt.plugins import darknet

YOLOV2 = Path(__file__).parents[2] / "examples" / "yolov2.cfg"
LAYOUTS = {
    darknet.Layout.FLOATS: (0.001, 0.9, 0.0005),
    darknet.Layout.SEEN_32: (0, 1, 0),
    darknet.Layout.SEEN_64: (0, 2, 5),
    darknet.Layout.SEEN_32_LATE: (0, 2, 0),
}


def random_model(text: str) -> darknet.Darknet:
    model = darknet.Darknet(darknet.parse_cfg(text))
    for stored in model.stored():
        with torch.no_grad():
            if stored.is_variance:
                stored.tensor.uniform_(0.5, 2)
            else:
                stored.tensor.normal_(0, 0.5)
    return model


def in_order(model: nn.Module) -> list[torch.Tensor]:
    """What Darknet's load_convolutional_weights and load_connected_weights read, by their order."""
    found = []
    for layer in model.layers:
        core = getattr(layer, "conv", getattr(layer, "linear", None))
        if core is None:
            continue
        norm = layer.norm
        biases = core.bias if norm is None else norm.bias
        norms = [] if norm is None else [norm.weight, norm.running_mean, norm.running_var]
        is_matrix = isinstance(core, nn.Linear)
        found += [biases, core.weight, *norms] if is_matrix else [biases, *norms, core.weight]
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("text", [EVERY_LAYER, CLASSIFIER], ids=["detector", "classifier"])
def test_numbers_lie_where_darknet_reads_them(text, layout, tmp_path):
    model = random_model(text)
    path = tmp_path / "x.weights"
    darknet.save_weights(model, path, darknet.Header(layout, LAYOUTS[layout], 32013312))
    data = path.read_bytes()
    if layout is darknet.Layout.FLOATS:
        assert data[:16] == struct.pack("<fffi", 0.001, 0.9, 0.0005, 32013312)
    else:
        assert struct.unpack_from("<iii", data) == LAYOUTS[layout]
    size = 20 if layout is darknet.Layout.SEEN_64 else 16
    numbers = np.frombuffer(data[size:], "<f4")
    for tensor in in_order(model):
        wanted = tensor.detach()
        if layout is darknet.Layout.FLOATS and wanted.ndim == 2:
            wanted = wanted.t()
        assert (numbers[: wanted.numel()] == wanted.reshape(-1).numpy()).all()
        numbers = numbers[wanted.numel() :]
    assert not len(numbers)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_comes_back(layout, tmp_path):
    written = random_model(CLASSIFIER)
    header = darknet.Header(layout, LAYOUTS[layout], 7)
    darknet.save_weights(written, tmp_path / "x.weights", header)
    model = darknet.Darknet(darknet.parse_cfg(CLASSIFIER))
    found = darknet.load_weights(model, tmp_path / "x.weights")
    assert (found.layout, found.images_seen) == (layout, 7)
    assert found.version == pytest.approx(LAYOUTS[layout])
    counted = [name for name in written.state_dict() if not name.endswith("batches_tracked")]
    assert len(counted) == len(written.stored())
    for name in counted:
        assert torch.equal(model.state_dict()[name], written.state_dict()[name]), name


def test_the_network_computes_what_darknet_computes():
    model = random_model(EVERY_LAYER)
    x = torch.rand(2, 3, 8, 12)
    layers = model.layers

    def batch_norm(y, norm):  # normalize_gpu, scale_bias, add_bias
        deviation = torch.sqrt(norm.running_var + 1e-5)[:, None, None]
        y = (y - norm.running_mean[:, None, None]) / deviation
        return y * norm.weight[:, None, None] + norm.bias[:, None, None]

    def pool(y, size, stride):
        return torch.stack([torch.from_numpy(darknet_maxpool(i.numpy(), size, stride, size - 1))
                            for i in y])

    with torch.no_grad():
        y0 = batch_norm(functional.conv2d(x, layers[0].conv.weight, padding=1), layers[0].norm)
        y1 = pool(torch.where(y0 > 0, y0, 0.1 * y0), 2, 2)
        y2 = functional.conv2d(y1, layers[2].conv.weight, layers[2].conv.bias).clamp(min=0)
        y3 = y2 + y1
        y4 = pool(y3, 2, 1)
        assert y4.shape == y3.shape
        y5 = functional.conv2d(y4, layers[5].conv.weight, stride=2, padding=1, groups=2)
        y5 = batch_norm(y5, layers[5].norm).sigmoid()
        y7 = torch.cat([y5.repeat_interleave(2, 2).repeat_interleave(2, 3), y3], 1)
        found = model(x)
        y11 = layers[11](layers[8](y7))
        wanted = layers[12](y11)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "stride", "padding"), [
    (2, 2, None), (2, 1, None), (3, 2, None), (3, 1, None), (3, 2, 0), (2, 2, 0), (5, 3, None),
])
@pytest.mark.parametrize("shape", [(7, 6), (8, 9)])
def test_max_pool_like_darknet(size, stride, padding, shape):
    options = f"size={size}\nstride={stride}\n"
    if padding is not None:
        options += f"padding={padding}"
    text = f"[net]\nheight={shape[0]}\nwidth={shape[1]}\nchannels=2\n[maxpool]\n{options}"
    model = darknet.Darknet(darknet.parse_cfg(text))
    x = torch.randn(1, 2, *shape)
    wanted = darknet_maxpool(x[0].numpy(), size, stride, size - 1 if padding is None else padding)
    assert model.steps[0].shape == wanted.shape
    assert (model(x)[0].numpy() == wanted).all()


def test_yolov2_is_the_network_of_the_paper():
    model = darknet.Darknet(darknet.read_cfg(YOLOV2))
    shapes = [step.shape for step in model.steps]
    assert sum(step.kind == "convolutional" for step in model.steps) == 23
    assert shapes[24] == (1024, 13, 13)
    assert model.steps[25].sources == (16,)
    assert shapes[25] == (512, 26, 26)
    assert shapes[27] == (256, 13, 13)
    assert shapes[28] == (1280, 13, 13)
    assert shapes[30] == (425, 13, 13)
    # 50 983 561 numbers of COCO's YOLOv2, 203 934 260 bytes with its header of 16.
    assert 16 + 4 * sum(stored.tensor.numel() for stored in model.stored()) == 203_934_260


@pytest.mark.parametrize(("text", "message"), [
    ("", r"a network starts with \[net\], this starts with nothing"),
    ("[convolutional]\n", r"this starts with \[convolutional\]"),
    ("[net]\nheight=8\nwidth=8", "the network has no layers"),
    ("height=8\n[net]", "the option height stands before the first"),
    ("[net\n", "'\\[net' does not end with ]"),
    ("[net]\nheight", "'height' is neither"),
    ("[net]\nwidth=8\n[dropout]", "the option height is missing"),
    ("[net]\nheight=x\nwidth=8\n[dropout]", "height='x' is not a whole number"),
    ("[net]\nheight=0\nwidth=8\n[dropout]", r"height=0 is not within 1\.\."),
    ("[net]\nheight=8\nwidth=8\n[gru]", r"\[gru\] at line 4: this layer is not read here"),
    ("[net]\nheight=8\nwidth=8\n[conv]\nsize=11", r"its output would be 1 x -2 x -2"),
    ("[net]\nheight=8\nwidth=8\n[conv]\nactivation=gelu", "the activation 'gelu' is not one of"),
    ("[net]\nheight=8\nwidth=8\n[conv]\nxnor=1", "xnor=1 is not read here"),
    ("[net]\nheight=8\nwidth=8\n[conv]\ngroups=2", "2 groups do not divide 3 channels"),
    ("[net]\nheight=8\nwidth=8\n[route]\nlayers=-1", "layer -1 is not one before this, layer 0"),
    ("[net]\nheight=8\nwidth=8\n[conv]\n[route]\nlayers=", "it names no layers"),
    ("[net]\nheight=8\nwidth=8\n[conv]\n[maxpool]\nstride=2\n[route]\nlayers=0,1", "unequal sizes"),
    ("[net]\nheight=8\nwidth=8\n[conv]\n[conv]\nfilters=2\n[shortcut]\nfrom=0", "adds .* to"),
    ("[net]\nheight=8\nwidth=8\n[reorg]\nstride=2", "stride 2 does not divide 3 channels"),
    ("[net]\nheight=8\nwidth=8\n[reorg]\nreverse=1", "reverse and flatten are not read"),
    ("[net]\nheight=8\nwidth=8\n[softmax]\ngroups=2", "groups other than 1 are not read"),
    ("[net]\nheight=8\nwidth=8\n[region]\nclasses=2", "1 anchors of 2 classes need 7 channels"),
    ("[net]\nheight=8\nwidth=8\n[region]\nanchors=1", "1 anchors need 2 numbers, there are 1"),
    ("[net]\nheight=8\nwidth=8\n[region]\nanchors=1,nan", "a number that is not finite"),
    ("[net]\nheight=8\nwidth=8\n[region]\nanchors=1,a", "is not a list of numbers"),
    ("[net]\nheight=8\nwidth=8\n[region]\ncoords=5", "coords other than 4 are not read"),
    ("[net]\nheight=8\nwidth=8\n[region]\ntree=x.tree", "tree is not read"),
    ("[net]\nheight=8\nwidth=8\n[upsample]\nscale=1,2", "scale='1,2' is not one number"),
    ("[net]\nheight=8\nwidth=8\nchannels=7\n[region]\nclasses=2\n[dropout]", "not the last layer"),
])
def test_damaged_cfg(text, message):
    with pytest.raises(darknet.DarknetError, match=message):
        darknet.Darknet(darknet.parse_cfg(text))


def test_cfg_that_is_no_text(tmp_path):
    path = tmp_path / "x.cfg"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(darknet.DarknetError, match=r"x\.cfg: it is not text"):
        darknet.read_cfg(path)


@pytest.mark.parametrize(("change", "message"), [
    (lambda d: d[:-4], "it ends too early: .* array 8 of 9 is the first"),
    (lambda d: d[:19], "19 bytes are too few for a header of 20"),
    (lambda d: d[:3], "3 bytes are too few for a header"),
    (lambda d: d + b"\0", "it is too long"),
    (lambda d: d[:12] + b"\xff" * 8 + d[20:], "-1 images seen: not of Darknet"),
    (lambda d: d[:20] + b"\0\0\xc0\x7f" + d[24:], r"layers\.0\.biases has numbers that are not"),
    (lambda d: d[:20] + b"\0\0\x80\xbf" * 999, "it is too long"),
])
def test_damaged_weights(change, message, tmp_path):
    model = random_model(CLASSIFIER)
    path = tmp_path / "x.weights"
    darknet.save_weights(model, path)
    path.write_bytes(change(path.read_bytes()))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(darknet.DarknetError, match=message):
        darknet.load_weights(model, path)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_negative_variances_are_of_another_network(tmp_path):
    model = random_model(CLASSIFIER)
    with torch.no_grad():
        model.layers[1].norm.running_var[2] = -1
    darknet.save_weights(model, tmp_path / "x.weights")
    with pytest.raises(darknet.DarknetError, match=r"layers\.1\.variances has negative variances"):
        darknet.load_weights(model, tmp_path / "x.weights")


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=80), st.lists(st.integers(0, 6), max_size=4))
def test_any_bytes_are_weights_or_an_error(data, counts):
    try:
        header, arrays = darknet.read_weights(data, counts)
    except darknet.DarknetError:
        return
    assert [len(array) for array in arrays] == counts
    assert header.to_bytes() + data[header.layout.size_bytes :] == data


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from([
    "[net]", "[conv]", "[route]", "[reorg]", "[maxpool]", "[region]", "[shortcut]", "[connected]",
    "height=6", "width=4", "stride=2", "stride=0", "size=3", "layers=-1,0", "from=-1", "from=9",
    "filters=99999999999", "filters=8", "=", "[", "pad=1", "#x", "layers=,", "output=-1",
    "anchors=1e99,1",
]), max_size=14))
def test_any_text_is_a_network_or_an_error(lines):
    text = "\n".join(["[net]\nheight=8\nwidth=6\nchannels=4", *lines])
    try:
        model = darknet.Darknet(darknet.parse_cfg(text))
    except darknet.DarknetError:
        return
    assert model.steps
