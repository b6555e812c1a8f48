"""YOLOv2 with decoding and suppression, and suppression alone, beside torch.

    python tests/bench/detection_bench.py [--device cuda] [--size 416] [--parts nms,yolov2]
        [--precisions fp32,tf32,fp16,int8] [--deadline-s 110]

Peers run the network in eager mode or compiled, then decode in torch and call torchvision's NMS
(where its extension does not load, the same kernels from torchvision_nms.py); "features" is their
network alone. Rows of fp32 are without TF32 for all. Our engine is one with everything in it. All
contenders of a part are built, compared with eager float32 (the share of its boxes that are found),
then timed in turns. What cannot be built before the deadline, or fails, is a row that says so.
Writes results/detection_<device>_<date>.csv.
"""

from __future__ import annotations

import argparse
import copy
import csv
import functools
import importlib
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import torch

import torchvision_shim  # isort: skip  (before torchvision)
import torchvision
from torch import nn

import torch2rt
from torch2rt.bench.machine import machine_card
from torch2rt.plugins.darknet import Detector
from torch2rt.plugins.nms import nms

HERE = Path(__file__).parent
yolov2 = importlib.import_module("06_yolov2")

COLUMNS = ("case", "device", "precision", "contender", "median_ms", "p10_ms", "p90_ms",
           "rounds", "times_eager_fp32", "found", "build_s", "status")
# Boxes and how many are kept, of the bar of suppression.
NMS_CASES = ((100_000, 300), (5_000, 300))
# Seconds of a contender's turn, about.
TURN_S = 0.5
LOW = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Entry:
    """One contender on one case."""

    case: str
    precision: str
    contender: str
    build: Callable[[], Callable[[], Any]]
    call: Callable[[], Any] | None = None
    samples_ms: list[float] = field(default_factory=list)
    build_s: float = 0.0
    found: float | None = None
    status: str = "ok"


class Peer(nn.Module):
    """The network up to its last feature map."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        network = self.detector.network
        outputs = {-1: x}
        pairs = zip(network.layers, network.steps, strict=True)
        for index, (layer, step) in enumerate(list(pairs)[:-1]):
            read = [outputs[source] for source in step.sources]
            if step.kind == "route":
                outputs[index] = torch.cat(read, 1)
            else:
                outputs[index] = layer(read[0])
        return outputs[len(network.steps) - 2]


def detect(detector: Detector, features: torch.Tensor) -> torch.Tensor:
    """Decoding and suppression as one writes them with torch and torchvision, for one image."""
    boxes, scores = detector.network.layers[-1](features)
    box, category = torch.nonzero(scores[0] > detector.score_threshold, as_tuple=True)
    chosen, values = boxes[0, box], scores[0, box, category]
    apart = chosen + category[:, None] * (chosen.max() + 1) if len(chosen) else chosen
    kept = _torchvision_nms(features.device.type)(apart, values, detector.iou_threshold)
    kept = kept[: detector.max_output]
    return torch.cat([chosen[kept], values[kept, None], category[kept, None].float()], 1)


def yolo_entries(args: argparse.Namespace) -> tuple[list[Entry], Callable[[Any], float]]:
    """Eager, compiled and our engine at every precision."""
    detector, x = yolov2.model_and_input(args.size)
    detector, x = detector.to(args.device).eval(), x.to(args.device)
    with torch.no_grad():
        wanted = detect(detector, Peer(detector)(x))
    case = f"yolov2 {args.size}x{args.size}"
    precisions = args.precisions.split(",")
    # What a deadline may cut off comes last.
    entries = [Entry(case, p, "torch2rt", _engine(detector, x, p, args)) for p in precisions]
    for name in args.contenders.split(","):
        for precision in precisions:
            if precision != "int8":
                entries += _peers(case, name, precision, x, args)

    def found(result: Any) -> float:
        if isinstance(result, tuple):
            detections, counts = result
            result = detections[0, : counts[0]]
        return float(yolov2.matched(result, wanted)) if result.dim() == 2 else float("nan")

    return entries, found


def _peers(
    case: str, name: str, precision: str, x: torch.Tensor, args: argparse.Namespace
) -> list[Entry]:
    """The whole and the network alone, eager or compiled."""
    dtype = LOW.get(precision, torch.float32)

    @functools.cache
    def network() -> tuple[Detector, Any]:
        model = yolov2.model_and_input(args.size)[0].to(args.device).eval()
        features: Any = Peer(copy.deepcopy(model)).to(dtype, memory_format=torch.channels_last)
        if name == "compile":
            inductor = importlib.import_module("torch._inductor.config")
            inductor.freezing = True
            mode = "reduce-overhead" if args.device == "cuda" else "default"
            features = torch.compile(features, mode=mode)
        return model, features

    def make(whole: bool) -> Callable[[], Callable[[], Any]]:
        def build() -> Callable[[], Any]:
            model, features = network()
            read = x.to(dtype, memory_format=torch.channels_last)

            def call() -> Any:
                # torch's default for convolutions is TF32, which is another row.
                torch.backends.cudnn.allow_tf32 = precision == "tf32"
                with torch.no_grad():
                    found = features(read)
                    return detect(model, found.float()) if whole else found
            return call
        return build

    return [
        Entry(case, precision, name, make(whole=True)),
        Entry(case, precision, f"{name}, features", make(whole=False)),
    ]


def _engine(
    detector: Detector, x: torch.Tensor, precision: str, args: argparse.Namespace
) -> Callable[[], Callable[[], Any]]:
    def build() -> Callable[[], Any]:
        batches = [yolov2.photo(*name, args.size)[1].to(x.device) for name in yolov2.PHOTOS]
        rt = torch2rt.convert(
            detector, x, precision=precision, progress=False, tune_budget_s=args.tune_budget,
            calibration=batches if precision == "int8" else None, threads=args.threads,
            max_drop=1.0 if precision == "int8" else None,  # 8 bits wherever they are faster
        )
        if args.reports is not None:
            args.reports.mkdir(parents=True, exist_ok=True)
            rt.report(args.reports / f"yolov2_{args.size}_{precision}.txt")
        return lambda: rt(x)
    return build


class Suppress(nn.Module):
    """Suppression alone."""

    def __init__(self, kept: int) -> None:
        super().__init__()
        self.kept = kept

    def forward(
        self, boxes: torch.Tensor, scores: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return nms(boxes, scores, 0.5, self.kept)


def _torchvision_nms(device: str) -> Callable[..., torch.Tensor]:
    """torchvision's own, or its CUDA kernels written out where its extension does not load."""
    if device == "cuda" and not torchvision_shim.HAS_OPERATORS:
        return importlib.import_module("torchvision_nms").nms
    return torchvision.ops.nms


def nms_entries(
    count: int, kept: int, args: argparse.Namespace
) -> tuple[list[Entry], Callable[[Any], float]]:
    """torchvision's NMS and ours."""
    torch.manual_seed(0)
    corner = torch.rand(count, 2) * 1000
    boxes = torch.cat([corner, corner + torch.rand(count, 2) * 60], 1).to(args.device)
    scores = torch.rand(count).to(args.device)
    case = f"nms {count} boxes to {kept}"
    answers: list[torch.Tensor] = []

    def ours() -> Callable[[], Any]:
        rt = torch2rt.convert(
            Suppress(kept), (boxes[None], scores[None]), progress=False, threads=args.threads
        )
        return lambda: rt(boxes[None], scores[None])

    def theirs() -> Callable[[], Any]:
        suppress = _torchvision_nms(args.device)

        def call() -> Any:
            return suppress(boxes, scores, 0.5)[:kept]

        answers.append(call())
        return call

    def found(result: Any) -> float:
        indices = result[0][0] if isinstance(result, tuple) else result
        return float((indices == answers[0]).float().mean()) if answers else float("nan")

    return [
        Entry(case, "fp32", "eager", theirs), Entry(case, "fp32", "torch2rt", ours)
    ], found


def run(
    entries: list[Entry], found: Callable[[Any], float], args: argparse.Namespace, deadline: float
) -> None:
    """Build all, then time them in turns."""
    for entry in entries:
        title = f"{entry.case} {entry.precision} {entry.contender}"
        if time.monotonic() > deadline:
            entry.status = "not built in time"
            say(f"{title}: {entry.status}")
            continue
        start = time.monotonic()
        try:
            call = entry.build()
            for _ in range(4):
                result = call()
            entry.found = found(result)
        except Exception as error:  # any library may raise anything: the row says what
            entry.status = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            say(f"{title}: {entry.status}")
            continue
        entry.call, entry.build_s = call, time.monotonic() - start
        say(f"{title}: built in {entry.build_s:.1f} s, {entry.found:.3f} of the boxes")
    running = [entry for entry in entries if entry.call is not None]
    shuffler = random.Random(0)
    for number in range(args.rounds + 1):
        shuffler.shuffle(running)
        for entry in running:
            sample = _time_ms(entry, args)
            if number:  # the first round warms up
                entry.samples_ms.append(sample)


def _time_ms(entry: Entry, args: argparse.Namespace) -> float:
    """Milliseconds of one call, the mean over a few, and over fewer where one takes long."""
    assert entry.call is not None
    once_s = _time_s(entry.call, 1, args.device)
    calls = max(1, min(args.calls, int(TURN_S / once_s)))
    return _time_s(entry.call, calls, args.device) * 1e3 / calls


def _time_s(call: Callable[[], Any], calls: int, device: str) -> float:
    """Seconds of so many calls."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def write(entries: list[Entry], path: Path, device: str) -> None:
    """The table so far."""
    eager = {
        entry.case: statistics.median(entry.samples_ms) for entry in entries
        if entry.contender == "eager" and entry.precision == "fp32" and entry.samples_ms
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        file.writelines(f"# {line}\n" for line in machine_card().lines())
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for entry in entries:
            median, low, high = _spread(entry.samples_ms)
            faster = eager[entry.case] / median if median and entry.case in eager else 0.0
            writer.writerow([
                entry.case, device, entry.precision, entry.contender, f"{median:.4g}",
                f"{low:.4g}", f"{high:.4g}", len(entry.samples_ms), f"{faster:.3g}",
                "" if entry.found is None else f"{entry.found:.3f}", f"{entry.build_s:.1f}",
                entry.status,
            ])


def _spread(samples: list[float]) -> tuple[float, float, float]:
    """Median, tenth and ninetieth percentile."""
    if len(samples) < 2:
        return (samples[0],) * 3 if samples else (0.0, 0.0, 0.0)
    tenths = statistics.quantiles(samples, n=10, method="inclusive")
    return statistics.median(samples), tenths[0], tenths[-1]


_STARTED = time.monotonic()


def say(text: str) -> None:
    """A line on standard output, at once, with the seconds since the start."""
    sys.stdout.write(f"[{time.monotonic() - _STARTED:6.1f}] {text}\n")
    sys.stdout.flush()


def main() -> int:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default=device)
    parser.add_argument("--parts", default="nms,yolov2")
    parser.add_argument("--size", type=int, default=416)
    default = "fp32,tf32,fp16,int8" if device == "cuda" else "fp32,bf16,int8"
    parser.add_argument("--precisions", default=default)
    parser.add_argument("--contenders", default="eager,compile")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--calls", type=int, default=20 if device == "cuda" else 2)
    parser.add_argument("--tune-budget", type=float)
    parser.add_argument("--deadline-s", type=float, default=110.0 if device == "cuda" else 1e9)
    parser.add_argument("--reports", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or HERE / "results" / f"detection_{args.device}_{date.today().isoformat()}.csv"
    deadline = _STARTED + args.deadline_s
    done: list[Entry] = []
    parts: list[Callable[[], tuple[list[Entry], Callable[[Any], float]]]] = []
    if "nms" in args.parts:
        parts += [lambda case=case: nms_entries(*case, args) for case in NMS_CASES
                  if args.device == "cuda" or case[0] < 10_000]
    if "yolov2" in args.parts:
        parts.append(lambda: yolo_entries(args))
    for part in parts:
        entries, found = part()
        run(entries, found, args, deadline)
        done += entries
        write(done, out, args.device)
        sys.stdout.write(out.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
