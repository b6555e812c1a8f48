"""A user's layer whose kernels apply an epilogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch2rt.layers.plugin import Plugin


@dataclass(frozen=True)
class PluginWithEpilogue(Plugin):
    """A `Plugin` with one output, whose kernels pass what they store through ``EPILOGUE``.

    What follows it in a network may so become part of it.
    """

    name: ClassVar[str] = "plugin_with_epilogue"
    takes_epilogue: ClassVar[bool] = True
