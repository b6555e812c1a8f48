"""What goes wrong with Darknet's files."""

from __future__ import annotations

from typing import ClassVar

import torch2rt


class DarknetError(torch2rt.Torch2rtError, ValueError):
    """A ``.cfg`` or ``.weights`` file is damaged, or asks for something that is not read here."""

    template: ClassVar[str] = "Darknet {file}: {reason}"
