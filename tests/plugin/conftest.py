"""What tests of plugins share: the tested CUDA device, and a registry that is as it was after."""

from collections.abc import Iterator

import pytest
from cuda_testing import cuda_device

from torch2rt.extension.registry import definitions
from torch2rt.plugin import unregister

__all__ = ["cuda_device"]


@pytest.fixture(autouse=True)
def forget_plugins() -> Iterator[None]:
    """Plugins that a test registers are gone after it."""
    before = {definition.name for definition in definitions()}
    yield
    for definition in definitions():
        if definition.name not in before:
            unregister(definition.name)
