"""Greedy suppression on numpy arrays: what the plugins' bodies and CPU implementations run.

Scores are sorted a pool at a time, since suppression stops when enough boxes are kept; candidates
of a pool are compared a chunk at a time, first with all boxes that are kept, then with each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Candidates that are sorted at once, at least, and those compared with each other at once.
_POOL, _CHUNK = 2048, 192
# torchvision.ops.batched_nms shifts the boxes of each category aside if they have at most so many
# coordinates: rounding then decides cases that are nearly equal.
SHIFTED_COORDINATES = {"cpu": 4000, "cuda": 20000}


@dataclass(frozen=True, slots=True)
class Options:
    """What is kept. ``top_k``: candidates of a category, best first, that take part; -1: all.

    ``shifted_coordinates``: see `SHIFTED_COORDINATES`; -1: never.
    """

    iou_threshold: float
    score_threshold: float
    max_output: int
    top_k: int = -1
    shifted_coordinates: int = -1


def suppress(
    boxes: np.ndarray, scores: np.ndarray, categories: np.ndarray | None, options: Options
) -> np.ndarray:
    """Indices of the kept candidates, best first; equal scores keep their order.

    ``boxes``: float32 [n, 4] as x1, y1, x2, y2. ``scores``: float32 [n * k]: candidate i is of box
    i // k. ``categories``: [n * k]; boxes of unequal ones do not touch. None: all are of one.
    """
    chosen = np.flatnonzero(scores > np.float32(options.score_threshold))
    per_box = scores.size // max(len(boxes), 1)
    greedy = _Greedy(boxes, categories, per_box, chosen, options)
    left = chosen
    while left.size and not greedy.is_full():
        pool, left = _best(left, scores, max(_POOL, 4 * options.max_output))
        order = pool[np.argsort(-scores[pool], kind="stable")]
        for start in range(0, order.size, _CHUNK):
            greedy.take(order[start : start + _CHUNK])
            if greedy.is_full():
                break
    return np.array(greedy.kept[: options.max_output], np.int64)


def _best(left: np.ndarray, scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """At least ``count`` best candidates in their order, and the others."""
    if left.size <= 2 * count:
        return left, left[:0]
    values = scores[left]
    least = np.partition(values, left.size - count)[left.size - count]
    is_best = values >= least
    return left[is_best], left[~is_best]


class _Greedy:
    """The boxes that are kept so far."""

    def __init__(
        self, boxes: np.ndarray, categories: np.ndarray | None, per_box: int, chosen: np.ndarray,
        options: Options,
    ) -> None:
        self.boxes, self.categories, self.per_box = boxes, categories, per_box
        self.options = options
        self.threshold = np.float32(options.iou_threshold)
        self.kept: list[int] = []
        self.count = np.zeros(0, np.int64)
        self.shift: np.float32 | None = None
        if categories is not None and chosen.size:
            if options.top_k >= 0:
                self.count = np.zeros(int(categories.max()) + 1, np.int64)
            if 4 * chosen.size <= options.shifted_coordinates:
                self.shift = boxes[chosen // per_box].max() + np.float32(1)
        self._kept_boxes = np.empty((4, options.max_output), np.float32)
        self._kept_categories = np.empty(options.max_output, np.int64)

    def is_full(self) -> bool:
        """Whether enough is kept."""
        return len(self.kept) >= self.options.max_output

    def take(self, chunk: np.ndarray) -> None:
        """Keep what the kept boxes do not suppress; ``chunk`` is best first."""
        group = None if self.categories is None else self.categories[chunk]
        if group is not None and self.options.top_k >= 0:
            chunk, group = self._within_top_k(chunk, group)
        corners = self.boxes[chunk // self.per_box].T
        if self.shift is not None and group is not None:
            corners = corners + group.astype(np.float32) * self.shift
            group = None
        kept = len(self.kept)
        if kept:
            others = self._kept_categories[:kept] if group is not None else None
            free = ~self._overlaps(self._kept_boxes[:, :kept], others, corners, group).any(0)
            chunk, corners = chunk[free], corners[:, free]
            group = group[free] if group is not None else None
        beats = self._overlaps(corners, group, corners, group)
        dead = np.zeros(chunk.size, bool)
        for i in range(chunk.size):
            if dead[i]:
                continue
            self._kept_boxes[:, len(self.kept)] = corners[:, i]
            self._kept_categories[len(self.kept)] = group[i] if group is not None else 0
            self.kept.append(int(chunk[i]))
            if self.is_full():
                return
            dead |= beats[i]

    def _within_top_k(
        self, chunk: np.ndarray, group: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Those among the best ``top_k`` of their category, counting earlier chunks."""
        order = np.argsort(group, kind="stable")
        sorted_group = group[order]
        first = np.searchsorted(sorted_group, sorted_group)
        rank = np.empty(group.size, np.int64)
        rank[order] = np.arange(group.size) - first
        rank += self.count[group]
        np.add.at(self.count, group, 1)
        takes_part = rank < self.options.top_k
        return chunk[takes_part], group[takes_part]

    def _overlaps(
        self, a: np.ndarray, a_group: np.ndarray | None, b: np.ndarray, b_group: np.ndarray | None
    ) -> np.ndarray:
        """[a, b]: whether boxes [4, a] and [4, b] of one category overlap too much."""
        x1, y1, x2, y2 = a[:, :, None]
        width = np.minimum(x2, b[2]) - np.maximum(x1, b[0])
        height = np.minimum(y2, b[3]) - np.maximum(y1, b[1])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        areas = (x2 - x1) * (y2 - y1) + (b[2] - b[0]) * (b[3] - b[1])
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            found: np.ndarray = shared / (areas - shared) > self.threshold
        if a_group is not None and b_group is not None:
            found &= a_group[:, None] == b_group
        return found
