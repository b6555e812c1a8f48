"""Convolutions of few filters from patches, by how many blocks a multiprocessor runs at a time."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cpp.convolution.sm90_patch import Sm90PatchTactic


class WgmmaPatch1(Sm90PatchTactic):
    """One block: the largest patches and weights."""

    name: ClassVar[str] = "convolution.patch.wgmma_1"
    blocks: ClassVar[int] = 1


class WgmmaPatch2(Sm90PatchTactic):
    """Two blocks."""

    name: ClassVar[str] = "convolution.patch.wgmma_2"
    blocks: ClassVar[int] = 2


class WgmmaPatch3(Sm90PatchTactic):
    """Three blocks: copies and epilogues hide best, halos are the largest share."""

    name: ClassVar[str] = "convolution.patch.wgmma_3"
    blocks: ClassVar[int] = 3
