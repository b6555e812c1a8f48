"""Networks of Darknet: ``.cfg`` and ``.weights`` files as an `nn.Module`.

    model = darknet.load("yolov2.cfg", "yolov2.weights")
    boxes, scores = model(image)
    detections, counts = torch2rt.convert(darknet.Detector(model), image)(image)    # one engine

Source: https://github.com/pjreddie/darknet, src/parser.c.
"""

from torch2rt.plugins.darknet.cfg import Section, parse_cfg, read_cfg
from torch2rt.plugins.darknet.detector import Detector
from torch2rt.plugins.darknet.errors import DarknetError
from torch2rt.plugins.darknet.module import Darknet, load
from torch2rt.plugins.darknet.weights import (
    Header,
    Layout,
    load_weights,
    read_weights,
    save_weights,
    write_weights,
)

__all__ = [
    "Darknet",
    "DarknetError",
    "Detector",
    "Header",
    "Layout",
    "Section",
    "load",
    "load_weights",
    "parse_cfg",
    "read_cfg",
    "read_weights",
    "save_weights",
    "write_weights",
]
