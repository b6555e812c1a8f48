"""Shared set-up of the tests: support modules, threads, seeds and the CUDA gate."""

import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

THREADS = 2
SEED = 0

# Modules such as torchvision_shim are imported by name; importlib mode leaves sys.path alone.
sys.path.insert(0, str(Path(__file__).parent / "support"))


def pytest_configure() -> None:
    torch.set_num_threads(THREADS)
    # How long an example takes says how busy the machine is, and nothing of what is tested.
    settings.register_profile("load", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("load")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device and torch sees none")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(autouse=True, scope="session")
def few_compile_workers() -> None:
    """Test processes that run side by side on a GPU share the cores, and its memory."""
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if count > 1 and torch.cuda.is_available():
        from torch2rt.backends.devices import open_backend

        # With a single one, nothing would run in another process.
        open_backend("cuda:0").compile_workers = max(2, (os.cpu_count() or 1) // count)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test starts from the same random state, whichever tests ran before it."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
