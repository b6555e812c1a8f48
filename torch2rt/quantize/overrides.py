"""Precision by module path: ``precision={"features.0": "fp16", "head.*": "fp32", "*": "int8"}``.

A pattern names a module and everything inside it, with the wildcards of `fnmatch`. The first
pattern that matches counts, ``"*"`` last wherever it stands. A layer that was fused from several
modules has the precision of the first pattern that matches any of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch2rt.errors import ConfigError
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network

EVERYTHING = "*"
# What one layer may have, the lowest first: a network is called by the lowest it has.
LAYER_PRECISIONS = ("int8", "fp8", "int8_weights", "fp16", "bf16", "fp32")
_HALVES = frozenset({"fp16", "bf16"})
_BYTES = frozenset({"int8", "fp8"})
_NAMED = 5
# What the report of an engine keeps of precisions by module path.
PRECISIONS = "precisions"


@dataclass(frozen=True, slots=True)
class Overrides:
    """Precisions by pattern, in the order in which they are asked; the last is ``"*"``.

    ``is_by_layer``: a dict was given, which is followed wherever it can be.
    """

    patterns: tuple[tuple[str, str], ...] = ((EVERYTHING, "fp32"),)
    is_by_layer: bool = False

    def precision_of(self, layer: Layer) -> str:
        """The precision a layer is to have."""
        paths = [origin.module_path for origin in layer.origins]
        return next(
            precision for pattern, precision in self.patterns
            if pattern == EVERYTHING or any(matches(pattern, path) for path in paths)
        )

    @property
    def lowest(self) -> str:
        """The lowest precision of all, by which the network is called."""
        present = {precision for _, precision in self.patterns}
        return next((p for p in LAYER_PRECISIONS if p in present), self.patterns[-1][1])

    def to_json(self) -> list[list[str]]:
        """As JSON values."""
        return [list(pattern) for pattern in self.patterns]

    @property
    def half(self) -> str | None:
        """The 16-bit float that is asked for somewhere, if one is."""
        return next((precision for _, precision in self.patterns if precision in _HALVES), None)

    def check_matches(self, network: Network) -> None:
        """ConfigError for a pattern that matches no layer of the network, with near names."""
        paths = {origin.module_path for layer in network.layers for origin in layer.origins}
        for pattern, _ in self.patterns:
            if pattern != EVERYTHING and not any(matches(pattern, path) for path in paths):
                raise ConfigError(
                    option="precision", value=pattern, reason="no layer of the model is of a "
                    "module that it matches", remedy=f"Near names: {_near(pattern, paths)}.",
                )


FLOAT32 = Overrides()


def parse_precision(precision: object) -> Overrides:
    """The overrides of the option; a plain precision is one for everything.

    ConfigError for a mapping with unknown precisions, without ``"*"``, or with both 16-bit floats,
    or with both kinds of 8 bits.
    Whether a plain precision is known is not looked at.
    """
    if isinstance(precision, str):
        return Overrides(((EVERYTHING, precision),))
    if not isinstance(precision, Mapping):
        raise ConfigError(
            option="precision", value=precision, reason="neither a name nor a dict of names",
            remedy='Pass "int8", or {"features.0": "fp32", "*": "int8"}.',
        )
    for pattern, value in precision.items():
        if not isinstance(pattern, str) or value not in LAYER_PRECISIONS:
            raise ConfigError(
                option="precision", value={pattern: value}, reason="unknown value for a layer",
                remedy=f"Use one of {', '.join(map(repr, LAYER_PRECISIONS))}.",
            )
    if EVERYTHING not in precision:
        raise ConfigError(
            option="precision", value=dict(precision), reason="it says nothing of other layers",
            remedy='Add "*": "int8", or what the other layers are to have.',
        )
    if _HALVES <= set(precision.values()):
        raise ConfigError(
            option="precision", value=dict(precision), reason="a network has one 16-bit float",
            remedy='Use "fp16" or "bf16" throughout.',
        )
    if _BYTES <= set(precision.values()):
        raise ConfigError(
            option="precision", value=dict(precision), reason="a network has one kind of 8 bits",
            remedy='Use "int8" or "fp8" throughout.',
        )
    patterns = [item for item in precision.items() if item[0] != EVERYTHING]
    return Overrides((*patterns, (EVERYTHING, precision[EVERYTHING])), is_by_layer=True)


def matches(pattern: str, path: str) -> bool:
    """Whether a module path is that of a pattern, or of something inside it."""
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}.*")


def _near(pattern: str, paths: Iterable[str]) -> str:
    """Module paths like a pattern: of the model's modules and of those that hold them."""
    names: set[str] = set()
    for path in paths:
        parts = path.split(".")
        names.update(".".join(parts[:count]) for count in range(1, len(parts) + 1))
    names.discard("")
    found = difflib.get_close_matches(pattern, sorted(names), n=_NAMED, cutoff=0.4)
    return ", ".join(map(repr, found or sorted(names)[:_NAMED])) or "none"
