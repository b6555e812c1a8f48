"""YOLOv2 from Darknet's files, whole: decoding and suppression included, as one engine.

    python examples/06_yolov2.py [--size 416] [--precisions fp32,bf16,int8] [--output boxes.png]

Writes a random ``.weights`` file as Darknet writes it, reads it back and compares every tensor,
converts, compares the boxes, and draws them on a photo. With the files of the real network
(https://pjreddie.com/darknet/yolov2) pass --weights yolov2.weights.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from imagenet_mobilenet import package_file
from PIL import Image, ImageDraw

import torch2rt
from torch2rt.plugins import darknet

CFG = Path(__file__).with_name("yolov2.cfg")
PHOTOS = [
    ("skimage", "data/chelsea.png"), ("skimage", "data/coffee.png"), ("skimage", "data/rocket.jpg"),
    ("sklearn", "datasets/images/china.jpg"), ("sklearn", "datasets/images/flower.jpg"),
]
ROUNDS = 15


def network(size: int) -> darknet.Darknet:
    """YOLOv2 for square images."""
    text = CFG.read_text()
    for side in ("width", "height"):
        text = text.replace(f"{side}=416", f"{side}={size}")
    return darknet.Darknet(darknet.parse_cfg(text))


def randomise(model: darknet.Darknet) -> None:
    """Random numbers that keep the size of activations, and give a few boxes."""
    torch.manual_seed(0)
    with torch.no_grad():
        for stored in model.stored():
            kind = stored.name.rsplit(".", 1)[1]
            if kind == "weights":
                fan_in = stored.tensor[0].numel()
                stored.tensor.normal_(0, (2 / fan_in) ** 0.5)
            elif kind in ("scales", "variances"):
                stored.tensor.uniform_(0.8, 1.2)
            else:
                stored.tensor.normal_(0, 0.1)
        head = model.layers[-2].conv
        fields = torch.arange(head.out_channels) % (head.out_channels // 5)
        factor = torch.where(fields < 4, 0.5, 4.0)
        head.weight *= factor[:, None, None, None]
        head.bias[fields == 4] -= 2.0


def photo(package: str, path: str, size: int) -> tuple[Image.Image, torch.Tensor]:
    """The photo, and what the network is given: float32 [1, 3, size, size] in 0..1."""
    image = Image.open(package_file(package, path)).convert("RGB")
    pixels = np.asarray(image.resize((size, size)), np.float32) / 255
    return image, torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())


def model_and_input(size: int = 416) -> tuple[darknet.Detector, torch.Tensor]:
    """What `torch2rt bench` takes as a factory."""
    model = network(size)
    randomise(model)
    return darknet.Detector(model, 0.5), photo(*PHOTOS[0], size)[1]


def through_a_file(model: darknet.Darknet, path: Path) -> darknet.Darknet:
    """Write the weights, read them into another network, compare every tensor."""
    darknet.save_weights(model, path, darknet.Header(images_seen=32_013_312))
    copy = network(model.input_shape[1])
    header = darknet.load_weights(copy, path)
    tensors = copy.state_dict()
    different = [
        name for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked") and not torch.equal(value, tensors[name])
    ]
    print(f"{path.name}: {path.stat().st_size} bytes, {header.images_seen} images seen, "
          f"{len(model.stored())} arrays read back, {len(different)} differ")
    if different:
        raise SystemExit(f"not the same: {different}")
    return copy


def draw(image: Image.Image, detections: torch.Tensor, path: Path) -> None:
    """Boxes with class and score on the photo."""
    pen = ImageDraw.Draw(image)
    scale = torch.tensor([image.width, image.height]).repeat(2)
    for row in detections.cpu():
        x1, y1, x2, y2 = (row[:4].clamp(0, 1) * scale).tolist()
        colour = f"hsl({int(row[5]) * 47 % 360}, 90%, 50%)"
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=2)
        pen.text((x1 + 3, y1 + 2), f"class {int(row[5])}: {row[4]:.2f}", fill=colour)
    image.save(path)


def matched(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The share of boxes that have one of their class at the same place (overlap above 0.5)."""
    if not len(wanted) or not len(found):
        return float(len(wanted) == len(found))
    low = torch.maximum(found[:, None, :2], wanted[None, :, :2])
    high = torch.minimum(found[:, None, 2:4], wanted[None, :, 2:4])
    shared = (high - low).clamp(min=0).prod(2)
    area, other = ((b[:, 2:4] - b[:, :2]).prod(1) for b in (found, wanted))
    overlap = shared / (area[:, None] + other - shared)
    same = (overlap > 0.5) & (found[:, None, 5] == wanted[None, :, 5])
    return float(same.any(0).float().mean())


def median_ms(run: object, x: torch.Tensor) -> float:
    """Of a few calls."""
    samples = []
    with torch.no_grad():
        for _ in range(ROUNDS):
            start = time.perf_counter()
            run(x)
            if x.is_cuda:
                torch.cuda.synchronize()
            samples.append((time.perf_counter() - start) * 1e3)
    return statistics.median(samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--weights", type=Path)
    default = "fp32,fp16,int8" if device == "cuda" else "fp32,bf16,int8"
    parser.add_argument("--precisions", default=default)
    parser.add_argument("--output", type=Path, default=Path("yolov2_boxes.png"))
    options = parser.parse_args()
    model = network(options.size)
    if options.weights is None:
        randomise(model)
        with tempfile.TemporaryDirectory() as folder:
            model = through_a_file(model, Path(folder, "random.weights"))
    else:
        darknet.load_weights(model, options.weights)
    detector = darknet.Detector(model, 0.5).to(device)
    image, x = photo(*PHOTOS[0], options.size)
    x = x.to(device)
    with torch.no_grad():
        wanted, counts = detector(x)
    wanted = wanted[0, : counts[0]]
    print(f"eager: {len(wanted)} boxes, {median_ms(detector, x):.1f} ms")
    batches = [photo(*name, options.size)[1].to(device) for name in PHOTOS]
    for precision in options.precisions.split(","):
        rt = torch2rt.convert(
            detector, x, precision=precision, calibration=batches if precision == "int8" else None
        )
        detections, counts = rt(x)
        found = detections[0, : counts[0]]
        print(f"engine {precision}: {len(found)} boxes, {matched(found, wanted):.0%} of the "
              f"model's among them, {median_ms(rt, x):.1f} ms")
        if precision == options.precisions.split(",")[0]:
            draw(image, found, options.output)
            print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
