"""The passes every network goes through, in order, and why in this order."""

from __future__ import annotations

from torch2rt.fusions.base import Fuse, fusions_between
from torch2rt.network.network import Network
from torch2rt.passes.base import Log, Pass, run_passes
from torch2rt.passes.eliminate_common import EliminateCommon
from torch2rt.passes.eliminate_dead import EliminateDead
from torch2rt.passes.fold_constants import FoldConstants

CANONICAL = (0, 20)
FUSING = (0, 80)
MERGING = (80, 100)


def default_passes(*, merge_siblings: bool = True) -> tuple[Pass, ...]:
    """The pipeline. ``merge_siblings`` makes one layer of several that read the same input."""
    passes: list[Pass] = [
        EliminateDead(),  # because capture leaves layers that only dropped outputs need
        FoldConstants(),  # because fusions ask whether an operand is constant
        Fuse("canonicalise", fusions_between(*CANONICAL)),  # because equal layers must look equal
        EliminateCommon(),  # because a result with one reader fuses and a copy of it does not
        Fuse("fuse", fusions_between(*FUSING)),  # because every later step counts layers
        FoldConstants(),  # because fusions leave layers of constants behind
        EliminateDead(),  # because scaled weights leave the old ones behind
        EliminateCommon(),  # because fused branches may have become equal
    ]
    if merge_siblings:
        passes += [
            Fuse("merge_siblings", fusions_between(*MERGING)),  # because epilogues are known now
            Fuse("fuse_again", fusions_between(*FUSING)),  # because slices may meet concats
        ]
    passes += [
        EliminateDead(),  # because merged weights leave theirs behind
    ]
    return tuple(passes)


def optimize(
    network: Network, *, log: Log | None = None, check: bool = True, merge_siblings: bool = True
) -> Log:
    """Run the pipeline on a network, in place. Returns what was fused, and what not and why.

    ``check`` verifies the network after each pass. NetworkError names the pass that broke it.
    """
    log = run_passes(network, default_passes(merge_siblings=merge_siblings), log=log, check=check)
    log.forget_removed(network)
    return log
