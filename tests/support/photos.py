"""Photos of scikit-image and scikit-learn as ImageNet networks take them, in crops and flips.

    fold 0, fold 1     photos of two halves: what calibrates on one is tested on the other
    samples(photo)     [20, 3, 224, 224]: 2 sizes x 5 crops (corners, centre) x 2 (mirrored or not)

Only the packages' files are read; importing the packages would need scipy.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SIZE = 224
_SHORT_SIDES = (256, 320)
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_SKIMAGE = ("skimage", "data")
_SKLEARN = ("sklearn", "datasets/images")
# Every photograph there is; drawings (logo, chessboard, ...) are none. The two views of one
# motorcycle are in one fold, and so are two micrographs.
FOLDS: tuple[tuple[tuple[str, str, str], ...], ...] = (
    (
        (*_SKIMAGE, "astronaut.png"), (*_SKIMAGE, "brick.png"), (*_SKIMAGE, "chelsea.png"),
        (*_SKIMAGE, "coins.png"), (*_SKIMAGE, "gravel.png"), (*_SKIMAGE, "hubble_deep_field.jpg"),
        (*_SKIMAGE, "motorcycle_left.png"), (*_SKIMAGE, "motorcycle_right.png"),
        (*_SKIMAGE, "page.png"), (*_SKIMAGE, "retina.jpg"), (*_SKLEARN, "china.jpg"),
    ),
    (
        (*_SKIMAGE, "camera.png"), (*_SKIMAGE, "cell.png"), (*_SKIMAGE, "clock_motion.png"),
        (*_SKIMAGE, "coffee.png"), (*_SKIMAGE, "grass.png"), (*_SKIMAGE, "ihc.png"),
        (*_SKIMAGE, "microaneurysms.png"), (*_SKIMAGE, "moon.png"), (*_SKIMAGE, "rocket.jpg"),
        (*_SKIMAGE, "text.png"), (*_SKLEARN, "flower.jpg"),
    ),
)


def samples(photo: tuple[str, str, str]) -> torch.Tensor:
    """All crops of one photo, normalised: float32 [20, 3, 224, 224]."""
    image = Image.open(_path(photo)).convert("RGB")
    crops = [crop for short in _SHORT_SIDES for crop in _five_crops(image, short)]
    pixels = np.stack([np.asarray(crop, np.float32) / 255 for crop in crops])
    batch = torch.from_numpy(((pixels - _MEAN) / _STD).transpose(0, 3, 1, 2).copy())
    return torch.cat([batch, batch.flip(3)])


def fold_samples(fold: int) -> torch.Tensor:
    """All crops of the photos of a fold: float32 [220, 3, 224, 224]."""
    return torch.cat([samples(photo) for photo in FOLDS[fold]])


def calibration_batches(fold: int, size: int = 20) -> list[torch.Tensor]:
    """The crops of a fold in batches that each show many photos, the same on every run."""
    images = fold_samples(fold)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return list(images[order].split(size))


def _path(photo: Sequence[str]) -> Path:
    package, folder, name = photo
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{package} is not installed: see tests/requirements-models.txt")
    return Path(spec.origin).parent / folder / name


def _five_crops(image: Image.Image, short: int) -> list[Image.Image]:
    """Corners and centre of the image at a size of its shorter side."""
    scale = short / min(image.size)
    sized = image.resize((round(image.width * scale), round(image.height * scale)))
    right, bottom = sized.width - SIZE, sized.height - SIZE
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom), (right // 2, bottom // 2)]
    return [sized.crop((x, y, x + SIZE, y + SIZE)) for x, y in corners]
