"""The passes every network goes through, in order, and why in this order."""

from __future__ import annotations

from torch2rt.fusions.base import Fuse, fusions_between
from torch2rt.network.network import Network
from torch2rt.passes.base import Log, Pass, run_passes
from torch2rt.passes.eliminate_common import EliminateCommon
from torch2rt.passes.eliminate_dead import EliminateDead
from torch2rt.passes.fold_constants import FoldConstants

FOLDING = (0, 10)  # of quantization; part of what makes layers canonical
CANONICAL = (0, 20)
FUSING = (0, 80)
MERGING = (80, 100)


def default_passes(*, merge_siblings: bool = True, target: str = "cpu") -> tuple[Pass, ...]:
    """The pipeline for a backend.

    ``merge_siblings`` makes one layer of several that read the same input.
    """

    def fuse(name: str, priorities: tuple[int, int]) -> Fuse:
        return Fuse(name, fusions_between(*priorities, target))

    passes: list[Pass] = [
        EliminateDead(),  # because capture leaves layers that only dropped outputs need
        FoldConstants(),  # because fusions ask whether an operand is constant
        fuse("canonicalise", CANONICAL),  # because equal layers must look equal
        EliminateCommon(),  # because a result with one reader fuses and a copy of it does not
        fuse("fuse", FUSING),  # because every later step counts layers
        FoldConstants(),  # because fusions leave layers of constants behind
        EliminateDead(),  # because scaled weights leave the old ones behind
        EliminateCommon(),  # because fused branches may have become equal
    ]
    if merge_siblings:
        passes += [
            fuse("merge_siblings", MERGING),  # because epilogues are known now
            fuse("fuse_again", FUSING),  # because slices may meet concats
        ]
    passes += [
        EliminateDead(),  # because merged weights leave theirs behind
    ]
    return tuple(passes)


def optimize(
    network: Network, *, log: Log | None = None, check: bool = True, merge_siblings: bool = True,
    target: str = "cpu",
) -> Log:
    """Run the pipeline on a network, in place. Returns what was fused, and what not and why.

    ``target`` is the backend that it is for.

    ``check`` verifies the network after each pass. NetworkError names the pass that broke it.
    """
    passes = default_passes(merge_siblings=merge_siblings, target=target)
    log = run_passes(network, passes, log=log, check=check)
    log.forget_removed(network)
    return log
