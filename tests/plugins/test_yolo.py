"""A detector of Darknet whole, as one engine, at every precision of a CPU."""

import copy
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from darknet_cases import EVERY_LAYER
from PIL import Image

import torch2rt
from torch2rt.plugins import darknet

EXAMPLES = Path(__file__).parents[2] / "examples"

LOAD = """
import sys
import numpy as np
import torch2rt
import torch2rt.plugins.darknet
engine = torch2rt.Engine.load(sys.argv[1])
outputs = engine.run({"x": np.load(sys.argv[2])})
np.save(sys.argv[3], outputs["output.0"])
"""


@pytest.fixture(scope="module")
def example():
    sys.path.insert(0, str(EXAMPLES))
    yield importlib.import_module("06_yolov2")
    sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def detector(example):
    """Every layer that is read, with numbers that give a few boxes."""
    text = EVERY_LAYER.replace("width=12", "width=48").replace("height=8", "height=32")
    model = darknet.Darknet(darknet.parse_cfg(text))
    example.randomise(model)
    with torch.no_grad():
        model.layers[-2].conv.bias += 1
    return darknet.Detector(model, 0.3, 0.3, 20)


@pytest.fixture(scope="module")
def x():
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))


def boxes_of(result, image):
    detections, counts = result
    return detections[image, : counts[image]]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_one_engine(detector, x, example, precision):
    wanted = detector(x)
    assert 3 <= wanted[1].min(), "a test of nothing"
    rt = torch2rt.convert(
        detector, x, precision=precision, tune_budget_s=0, progress=False,
        calibration=[torch.rand(4, 3, 32, 48) for _ in range(3)] if precision == "int8" else None,
    )
    found = rt(x)
    assert not rt.engine.report["fallbacks"]
    for image in range(2):
        share = example.matched(boxes_of(found, image), boxes_of(wanted, image))
        assert share >= {"fp32": 1.0, "bf16": 0.8, "int8": 0.5}[precision]
    if precision == "fp32":
        torch.testing.assert_close(found[0], wanted[0], rtol=1e-3, atol=1e-3)
        assert torch.equal(found[1], wanted[1])


def test_a_fresh_process_runs_the_file(detector, x, tmp_path):
    rt = torch2rt.convert(detector, x, tune_budget_s=0, progress=False)
    path, given, result = (tmp_path / name for name in ("d.engine", "x.npy", "y.npy"))
    rt.save(path)
    np.save(given, x.numpy())
    subprocess.run([sys.executable, "-c", LOAD, path, given, result], check=True)
    assert np.array_equal(np.load(result), rt(x)[0].numpy())


def test_only_detectors_have_boxes():
    model = darknet.Darknet(darknet.parse_cfg("[net]\nheight=4\nwidth=4\n[maxpool]"))
    with pytest.raises(darknet.DarknetError, match=r"ends with \[region\], not \[maxpool\]"):
        darknet.Detector(model)


def test_the_examples_drawing(example, tmp_path):
    image = Image.new("RGB", (60, 40))
    row = torch.tensor([[0.1, 0.25, 0.5, 0.75, 0.9, 3.0]])
    example.draw(image, row, tmp_path / "boxes.png")
    drawn = np.asarray(Image.open(tmp_path / "boxes.png"))
    assert drawn[10, 6].any()
    assert drawn[30, 30].any()
    assert not drawn[35, 50].any()


def test_the_examples_matching(example):
    row = torch.tensor([[0.1, 0.1, 0.5, 0.5, 0.9, 3.0], [0.6, 0.6, 0.9, 0.9, 0.8, 1.0]])
    other = row.clone()
    other[1, 5] = 2.0
    assert example.matched(row, row) == 1.0
    assert example.matched(other, row) == 0.5
    assert example.matched(row[:0], row) == 0.0


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_one_engine_on_a_gpu(detector, x, example, precision):
    wanted = detector(x)
    batches = [torch.rand(4, 3, 32, 48).cuda() for _ in range(3)]
    rt = torch2rt.convert(
        copy.deepcopy(detector).cuda(), x.cuda(), precision=precision, progress=False,
        calibration=batches if precision == "int8" else None,
    )
    assert not rt.engine.report["fallbacks"]
    found = [item.cpu() for item in rt(x.cuda())]
    for image in range(2):
        share = example.matched(boxes_of(found, image), boxes_of(wanted, image))
        assert share >= {"fp32": 1.0, "fp16": 0.8, "int8": 0.5}[precision]
