"""Shared set-up of the tests: support modules, threads, seeds and the CUDA gate."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

THREADS = 2
SEED = 0

# Modules such as torchvision_shim are imported by name; importlib mode leaves sys.path alone.
sys.path.insert(0, str(Path(__file__).parent / "support"))


def pytest_configure() -> None:
    torch.set_num_threads(THREADS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device and torch sees none")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test starts from the same random state, whichever tests ran before it."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
