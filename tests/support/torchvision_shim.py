"""Import torchvision beside a CPU build of torch that its compiled operators were not built for.

``import torchvision_shim`` first, then ``import torchvision``. torchvision's own extension does
not load beside a CPU torch of another build, and its import fails on ``torchvision::nms``. This
module loads it beside stand-ins for the CUDA libraries that it misses (see torchvision_stubs).
Where that fails too, it declares the schemas that the import needs and gives ``nms`` a plain Python
kernel, which is enough for every classification, segmentation and video model;
``HAS_OPERATORS`` tells which. Where the extension loads by itself, nothing is changed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
import torchvision_stubs

# torch drops the schemas of a library object that is collected: it lives as long as this module.
LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def _has_operator(name: str) -> bool:
    return bool(torch._C._jit_get_schemas_for_operator(f"torchvision::{name}"))


def non_maximum_suppression(
    boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float
) -> torch.Tensor:
    """Greedy suppression: boxes (n, 4) as x1 y1 x2 y2, scores (n,) -> kept indices, best first."""
    kept: list[int] = []
    order = [int(index) for index in scores.argsort(descending=True, stable=True)]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while order:
        best = order.pop(0)
        kept.append(best)
        rest = torch.tensor(order, dtype=torch.long)
        low = torch.maximum(boxes[best, :2], boxes[rest, :2])
        high = torch.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = (high - low).clamp(min=0).prod(dim=1)
        overlap = shared / (area[best] + area[rest] - shared)
        order = [int(index) for index in rest[overlap <= iou_threshold]]
    return torch.tensor(kept, dtype=torch.long)


def _extension_loads() -> bool:
    """Whether torchvision's own operators are there for this torch."""
    found = importlib.util.find_spec("torchvision")
    assert found is not None, "torchvision is not installed"
    assert found.origin is not None
    for path in Path(found.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(path)
        except OSError:
            if torch.version.cuda is not None:
                return False
            try:
                torchvision_stubs.preload(path)
                torch.ops.load_library(path)
            except OSError:
                return False
    return _has_operator("nms")


# Whether torchvision's own compiled operators are there.
HAS_OPERATORS = _extension_loads()


def _install() -> None:
    if HAS_OPERATORS:
        return
    for name in ("nms", "qnms"):
        if not _has_operator(name):
            LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            LIBRARY.impl(name, non_maximum_suppression, "CPU")

    import torchvision.ops.boxes

    torchvision.ops.boxes._assert_has_ops = lambda: None


_install()
